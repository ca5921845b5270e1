from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from tests.clips import FFV1, GIF, H264, VP9, cut, picture, write_animation, write_clip
from tests.waiting import wait_for
from vllava_cli.errors import MediaError, UsageError
from vllava_cli.media.contact_sheet import tiled
from vllava_cli.media.decoder import protocol
from vllava_cli.media.decoder.client import DecoderClient, DecoderProcess, KilledError, NoAnswerError
from vllava_cli.media.sample import probe, sample
from vllava_cli.nouns import (
    Clip,
    DecodeLimits,
    Framing,
    Tiles,
    VideoRecipe,
)

M = (0.5, 0.5, 0.5)
WHOLE = Framing()
ROOT = Path(__file__).parents[3]
MIB = 1 << 20


@pytest.fixture(scope="module")
def shared() -> Iterator[DecoderClient]:
    """One child for the tests that leave it in peace."""
    with DecoderClient() as guard:
        yield guard


@pytest.fixture(scope="session")
def long_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One 4K picture that is repeated 6000 times in one group of pictures: a small file, half a minute of decoding."""
    path = tmp_path_factory.mktemp("long") / "long.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"g": "600"})
        stream.width, stream.height, stream.pix_fmt = 4096, 2160, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((2160, 4096, 3), np.uint8), format="rgb24")
        first, second = (stream.encode(frame)[0] for _ in range(2))
        container.mux(first)
        data = bytes(second)
        for index in range(1, 6000):
            packet = av.Packet(data)
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, second.time_base
            container.mux(packet)
    return path


def strike(guard: DecoderClient, path: Path, number: int, *, times: int = 1) -> threading.Thread:
    """Sends a signal to the guard's child while that reads `path`; `times` children are struck, one after another."""

    def wait_and_kill() -> None:
        struck: set[int] = set()

        def has_struck() -> bool:
            pid = guard.pid
            if pid and pid not in struck and path in open_files(pid):
                struck.add(pid)
                os.kill(pid, number)
            return len(struck) == times

        wait_for(has_struck)

    thread = threading.Thread(target=wait_and_kill)
    thread.start()
    return thread


def open_files(pid: int) -> set[Path]:
    try:
        return {Path(file.path) for file in psutil.Process(pid).open_files()}
    except psutil.Error:
        return set()


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def message_of(guard: DecoderClient, path: Path, framing: Framing = WHOLE) -> str:
    with pytest.raises(MediaError) as caught:
        guard.sample(path, framing)
    return str(caught.value)


def make_image(name: str = "a.png") -> Path:
    Image.fromarray(picture(5)).save(name)
    return Path(name)


@pytest.fixture
def fresh() -> Iterator[DecoderClient]:
    """A child of this test's own that has read a picture."""
    with DecoderClient() as guard:
        guard.sample(make_image(), WHOLE)
        yield guard


def error_of(guard: DecoderClient, path: Path) -> Exception:
    with pytest.raises(Exception) as caught:
        guard.sample(path, WHOLE)
    return caught.value


def asking(guard: DecoderClient, path: Path) -> tuple[threading.Thread, list[Exception]]:
    """A thread that asks for frames, and what it gets instead."""
    caught: list[Exception] = []
    thread = threading.Thread(target=lambda: caught.append(error_of(guard, path)))
    thread.start()
    return thread, caught


MEDIA: dict[str, Callable[[], Path]] = {
    "h264": lambda: write_clip(Path("a.mp4")),
    "vp9": lambda: write_clip(Path("a.webm"), encoding=VP9),
    "ffv1, odd": lambda: write_clip(Path("a.mkv"), 5, encoding=FFV1, width=65, height=49),
    "gif": lambda: write_clip(Path("a.gif"), encoding=GIF),
    "webp": lambda: write_animation(Path("a.webp")),
    "png": lambda: make_image(),
    "truncated": lambda: cut(write_clip(Path("whole.mkv"), 60), 0.6, "a.mkv"),
}


@pytest.mark.parametrize("name", MEDIA)
def test_the_frames_and_facts_are_those_of_sample_and_probe(shared: DecoderClient, name: str) -> None:
    path = MEDIA[name]()
    for framing in (WHOLE, Framing(start_s=0.1, end_s=0.4, fit="pad")):
        expected, frames = sample(path, framing), shared.sample(path, framing)
        assert (frames.clip, frames.times_s) == (expected.clip, expected.times_s)
        assert (frames.pixels == expected.pixels).all() and frames.pixels.shape == expected.pixels.shape
    for is_full in (False, True):
        assert shared.probe(path, is_full=is_full) == probe(path, is_full=is_full)


@pytest.mark.parametrize(
    ("name", "framing"),
    [
        ("b.mp4", WHOLE),
        ("a.mp4", Framing(start_s=99)),
        ("a.mp4", Framing(start_s=float("nan"))),
        ("a.mp4", Framing(start_s=2, end_s=1)),
    ],
)
def test_the_errors_are_those_of_sample(shared: DecoderClient, name: str, framing: Framing) -> None:
    write_clip(Path("a.mp4"), 3)
    with pytest.raises((MediaError, UsageError)) as expected:
        sample(Path(name), framing)
    with pytest.raises((MediaError, UsageError)) as error:
        shared.sample(Path(name), framing)
    assert (type(error.value), str(error.value)) == (type(expected.value), str(expected.value))


@pytest.mark.parametrize("name", [b"caf\xe9\xff.mp4", b"a\nb\x1b[31m.mp4", "日本.mp4".encode(), b"%d.mp4"])
def test_any_file_name_works(shared: DecoderClient, name: bytes) -> None:
    path = write_clip(Path("plain.mp4"), 3).rename(os.fsdecode(name))
    assert shared.sample(path, WHOLE).clip.path == path
    path.unlink()
    assert message_of(shared, path) == f"There is no file '{name.decode(errors='replace')}'. Check the path."


def test_a_relative_path_is_looked_up_where_the_caller_is(
    shared: DecoderClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("one", "two"):
        Path(folder).mkdir()
    write_clip(Path("one/a.mp4"), 3)
    write_clip(Path("two/a.mp4"), 4)
    counts = []
    for folder in ("one", "../two"):
        monkeypatch.chdir(folder)
        counts.append(shared.sample(Path("a.mp4"), WHOLE).clip.frame_count)
    assert counts == [3, 4]


def test_a_current_folder_that_is_gone(shared: DecoderClient, inside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("gone").mkdir()
    path = write_clip(inside / "a.mp4", 3)
    monkeypatch.chdir("gone")
    (inside / "gone").rmdir()
    assert shared.sample(path, WHOLE).clip.frame_count == 3
    assert message_of(shared, Path("b.mp4")) == "There is no file 'b.mp4'. Check the path."


def test_one_child_serves_hundreds_of_files_within_its_memory() -> None:
    paths = [make_image(), write_clip(Path("a.mp4"), 3), Path("gone.mp4")]
    with DecoderClient(DecodeLimits(memory_bytes=640 * MIB)) as guard:
        guard.start()
        pid, results = guard.pid, []
        for index in range(300):
            try:
                results.append(len(guard.sample(paths[index % 3], WHOLE).pixels))
            except MediaError:
                results.append(0)
        assert results == [1, 8, 0] * 100
        assert guard.pid == pid
        assert len(open_files(pid or 0)) == 0
    assert is_gone(pid or 0)


def test_threads_share_a_guard(shared: DecoderClient) -> None:
    paths = [write_clip(Path(f"{count}.mp4"), count) for count in range(1, 9)]
    with ThreadPoolExecutor(8) as threads:
        counts = threads.map(lambda path: shared.sample(path, WHOLE).clip.frame_count, paths)
    assert list(counts) == list(range(1, 9))


CRASHED = "'{}' can't be decoded: the decoder crashed on it ({}). Convert it to mp4 (H.264)."
KILLED = "'{}' can't be decoded: the decoder was killed (SIGKILL), perhaps for lack of memory. Close other programs."
SLOW = "'{}' took longer than {} s to decode. Raise --decode-timeout or cut it with --start and --end."


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (signal.SIGSEGV, CRASHED.format("{}", "SIGSEGV")),
        (signal.SIGABRT, CRASHED.format("{}", "SIGABRT")),
        (signal.SIGRTMIN + 3, CRASHED.format("{}", f"signal {signal.SIGRTMIN + 3}")),
        (signal.SIGKILL, KILLED),
        (signal.SIGXCPU, SLOW.format("{}", "300")),
    ],
    ids=["SIGSEGV", "SIGABRT", "a signal without a name", "SIGKILL", "SIGXCPU"],
)
def test_a_child_that_dies_on_a_file(long_clip: Path, number: int, message: str) -> None:
    with DecoderClient() as guard:
        thread = strike(guard, long_clip, number)
        assert message_of(guard, long_clip) == message.format(long_clip)
        thread.join()
        assert guard.sample(make_image(), WHOLE).kind == "image"


def test_a_crash_is_blamed_on_a_file_only_by_a_fresh_child(fresh: DecoderClient, long_clip: Path) -> None:
    first = fresh.pid
    thread = strike(fresh, long_clip, signal.SIGSEGV, times=2)
    assert message_of(fresh, long_clip) == CRASHED.format(long_clip, "SIGSEGV")
    thread.join()
    assert fresh.pid is None and is_gone(first or 0)


def test_a_child_that_died_while_idle_is_replaced(fresh: DecoderClient) -> None:
    pid = fresh.pid or 0
    os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: is_gone(pid))
    assert fresh.sample(Path("a.png"), WHOLE).kind == "image"
    assert fresh.pid != pid


def test_a_file_that_takes_too_long(long_clip: Path) -> None:
    with DecoderClient(DecodeLimits(timeout_s=0.1)) as guard:
        guard.start()
        pid = guard.pid or 0
        assert message_of(guard, long_clip) == SLOW.format(long_clip, "0.1")
        assert is_gone(pid)
        assert message_of(guard, long_clip) == SLOW.format(long_clip, "0.1"), "by another child"


def test_a_file_that_takes_too_much_processor_time(long_clip: Path) -> None:
    decoder = DecoderProcess(DecodeLimits())
    with pytest.raises(NoAnswerError) as caught:
        decoder.answer(protocol.Request(call="sample", path=long_clip, folder="", cpu_s=0))
    decoder.end()
    assert decoder.popen.returncode == -signal.SIGXCPU
    assert f"'x' {caught.value}" == SLOW.format("x", "300")


def test_a_picture_and_a_video_that_take_too_much_memory(long_clip: Path) -> None:
    with Path("large.ppm").open("wb") as file:
        file.write(b"P6 8000 8000 255\n")
        file.truncate(8000 * 8000 * 3 + 100)
    with DecoderClient(DecodeLimits(memory_bytes=384 * MIB)) as guard:
        for path in (Path("large.ppm"), long_clip):
            needed = "needs more than 0.4 GiB to decode. Raise --decode-memory or scale it down."
            assert message_of(guard, path) == f"'{path}' {needed}"
            assert guard.sample(make_image(), WHOLE).kind == "image"


CHILD = """
import sys
from pathlib import Path
from vllava_cli.media.decoder import protocol, server
request = protocol.Request(call="sample", path=Path("a.png"), folder="", cpu_s=60)
server.answer(request, sys.stdout.buffer, int(sys.argv[1]))
"""


def test_frames_larger_than_the_limit_are_not_sent_where_the_system_holds_none() -> None:
    size = np.asarray(Image.open(make_image())).nbytes
    command, environment = [sys.executable, "-c", CHILD], {**os.environ, "PYTHONPATH": str(ROOT)}
    fits, is_too_large = (
        subprocess.run([*command, str(most)], env=environment, stdout=subprocess.PIPE, check=True).stdout
        for most in (size, size - 1)
    )
    assert (fits.startswith(b'{"is": "frames"'), is_too_large) == (True, b'{"is": "memory error"}\n')


@pytest.mark.parametrize("tiles", ["whole", VideoRecipe(short_side=64, crop_height=56, crop_width=56, mean=M, std=M)])
def test_tiles_come_back_in_the_place_of_frames(shared: DecoderClient, tiles: Tiles) -> None:
    path, framing = write_clip(Path("a.mp4"), width=640, height=360), Framing(fit="squash")
    frames, expected = shared.sample(path, framing, tiles=tiles), tiled(sample(path, framing), tiles, fit="squash")
    assert (frames.clip, frames.times_s) == (expected.clip, expected.times_s)
    assert frames.pixels.shape == ((8, 202, 360, 3) if tiles == "whole" else (8, 56, 56, 3))
    assert (frames.pixels == expected.pixels).all()


def test_what_the_child_may_use() -> None:
    with DecoderClient(DecodeLimits(memory_bytes=512 * MIB, timeout_s=10)) as guard:
        guard.sample(make_image(), WHOLE)
        child = psutil.Process(guard.pid)
        limits = {name: child.rlimit(getattr(resource, f"RLIMIT_{name}")) for name in ("AS", "CORE", "FSIZE", "NOFILE")}
        assert limits == {"AS": (512 * MIB,) * 2, "CORE": (0, 0), "FSIZE": (0, 0), "NOFILE": (64, 64)}
        cores = os.cpu_count() or 1
        assert 10 * cores <= child.rlimit(resource.RLIMIT_CPU)[0] <= 10 * cores + 5


def test_the_child_inherits_nothing_but_the_wire_and_goes_first_where_memory_runs_out() -> None:
    with Path("secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        with DecoderClient() as guard:
            guard.sample(make_image(), WHOLE)
            assert open_files(guard.pid or 0) == set()
            assert psutil.Process(guard.pid).num_fds() == 5
            facts = Path(f"/proc/{guard.pid}")
            assert {str((facts / f"fd/{number}").readlink()) for number in range(3)} == {os.devnull}
            assert (facts / "oom_score_adj").read_text() == "1000\n"


def test_a_guard_that_another_thread_kills_in_the_middle_of_a_file(fresh: DecoderClient, long_clip: Path) -> None:
    pid = fresh.pid or 0
    thread, caught = asking(fresh, long_clip)
    assert wait_for(lambda: long_clip in open_files(pid))
    fresh.kill()
    assert not psutil.pid_exists(pid)
    thread.join()
    assert [type(error) for error in caught] == [KilledError]
    assert type(error_of(fresh, Path("a.png"))) is KilledError
    assert fresh.pid is None


SLOW_CHILD = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]


def test_a_guard_that_another_thread_kills_while_its_child_starts() -> None:
    guard = DecoderClient(command=SLOW_CHILD)
    thread, caught = asking(guard, Path("a.mp4"))
    assert wait_for(lambda: guard.pid is not None)
    pid = guard.pid or 0
    guard.kill()
    thread.join()
    assert [type(error) for error in caught] == [KilledError]
    assert not psutil.pid_exists(pid)


class Trap(list[str]):
    """A command that has a guard killed by another thread in the moment in which it is started."""

    guard: DecoderClient

    def __iter__(self) -> Iterator[str]:
        threading.Thread(target=self.guard.kill).start()
        assert wait_for(lambda: self.guard._is_killed)
        return super().__iter__()


def test_a_child_that_is_born_while_its_guard_is_killed() -> None:
    trap = Trap(SLOW_CHILD)
    trap.guard = DecoderClient(command=trap)
    thread, caught = asking(trap.guard, Path("a.mp4"))
    thread.join(timeout=30)
    assert [type(error) for error in caught] == [KilledError]
    assert trap.guard.pid is None


def test_an_idle_guard_that_is_killed_leaves_no_process_and_starts_none(fresh: DecoderClient) -> None:
    pid = fresh.pid or 0
    fresh.kill()
    assert not psutil.pid_exists(pid)
    fresh.kill()
    assert type(error_of(fresh, Path("a.mp4"))) is KilledError
    assert fresh.pid is None


def test_ctrl_c_ends_the_child_and_the_guard_stays_usable(fresh: DecoderClient, long_clip: Path) -> None:
    pid = fresh.pid or 0

    def interrupt() -> None:
        assert wait_for(lambda: long_clip in open_files(pid))
        os.kill(os.getpid(), signal.SIGINT)

    parent = threading.Thread(target=interrupt)
    parent.start()
    with pytest.raises(KeyboardInterrupt):
        fresh.sample(long_clip, WHOLE)
    parent.join()
    assert is_gone(pid)
    assert fresh.sample(Path("a.png"), WHOLE).kind == "image"


def test_the_child_itself_ignores_ctrl_c(fresh: DecoderClient) -> None:
    pid = fresh.pid or 0
    os.kill(pid, signal.SIGINT)
    assert fresh.sample(Path("a.png"), WHOLE).kind == "image"
    assert fresh.pid == pid


PARENT = """
import sys
from pathlib import Path
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.nouns import Framing

guard = DecoderClient()
guard.start()
print(guard.pid, flush=True)
guard.sample(Path(sys.argv[1]), Framing())
"""


def caller(code: str, *words: str | Path, **settings: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **settings}
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )


def test_the_child_ends_with_its_parent_in_the_middle_of_a_file(long_clip: Path) -> None:
    with caller(PARENT, long_clip) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert wait_for(lambda: long_clip in open_files(pid))
        parent.kill()
    assert wait_for(lambda: is_gone(pid))


LOUD = """
import os, sys
from pathlib import Path
from vllava_cli.errors import MediaError
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.nouns import Framing

noise = "import os; os.write(2, b'noise'); os.write(1, b'{\\"is\\": \\"ready\\"}\\\\n'); os.write(2, b'noise')"
try:
    DecoderClient(command=[sys.executable, "-c", noise]).sample(Path(sys.argv[1]), Framing())
except MediaError as exc:
    print(exc)
"""


def test_what_the_decoders_complain_about_does_not_reach_the_terminal() -> None:
    with caller(LOUD, "a.mp4") as parent:
        answer, errors = parent.communicate()
    assert (answer, errors) == (CRASHED.format("a.mp4", "status 0") + "\n", "")


HOSTILE = "import pathlib; pathlib.Path(__file__).with_name('ran').touch()\n"


@pytest.mark.parametrize("python_path", ["", ".", f"{os.pathsep}/nowhere"])
def test_modules_in_the_current_folder_are_not_run(
    inside: Path, monkeypatch: pytest.MonkeyPatch, python_path: str
) -> None:
    for name in ("av", "numpy", "PIL", "json", "dataclasses", "vllava_cli", "sitecustomize", "usercustomize"):
        Path(f"{name}.py").write_text(HOSTILE)
    monkeypatch.setenv("PYTHONPATH", python_path)
    with DecoderClient() as guard:
        assert guard.sample(make_image(), WHOLE).kind == "image"
    assert not (inside / "ran").exists()


def test_the_decoders_are_loaded_in_the_child_alone_which_loads_no_more() -> None:
    unneeded = {"torch", "transformers", "typer", "rich", "huggingface_hub"}
    server = "import sys, vllava_cli.media.decoder.server, vllava_cli.media.sample\n"
    for code, unloaded in ((PARENT, unneeded | {"av", "PIL"}), (server, unneeded)):
        words = f"{code}print(sorted({unloaded} & set(sys.modules)))"
        with caller(words, write_clip(Path("a.mp4"), 3)) as process:
            printed, _ = process.communicate()
        assert printed.splitlines()[-1] == "[]"


def test_a_bug_in_the_child_comes_back_with_its_traceback(shared: DecoderClient) -> None:
    with pytest.raises(protocol.DecoderBugError) as caught:
        shared.sample(write_clip(Path("a.mp4"), 3), Framing(start_s="soon"))  # type: ignore[arg-type]
    lines = str(caught.value).splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("TypeError: ")
    assert shared.sample(Path("a.mp4"), WHOLE).clip.frame_count == 3


def fake(code: str) -> Sequence[str]:
    """A child that says it is ready and then does what `code` says."""
    head = 'import os, sys, time\nos.write(1, b\'{"is": "ready"}\\n\')\nwhile os.read(0, 1 << 16):\n    '
    return [sys.executable, "-S", "-c", head + code]


LONG, SHORT = DecodeLimits(), DecodeLimits(timeout_s=0.1)
NONSENSE = "'a.mp4' made the decoder send an invalid answer ({}). Convert it to mp4 (H.264)."
FACTS = protocol.result_line(Clip(path=Path("a.mp4"), kind="video", width=64, height=48, frame_count=8))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("os.write(1, b'hello\\n')", NONSENSE.format("JSONDecodeError: Expecting value: line 1 column 1 (char 0)")),
        ("os.write(1, b'{}\\n')", NONSENSE.format("the answer: is is missing")),
        ("os.write(1, b'x' * (5 << 20))", NONSENSE.format("a line without an end")),
        (f"os.write(1, {FACTS!r})", NONSENSE.format("no answer to what was asked")),
        ("sys.exit(7)", CRASHED.format("a.mp4", "status 7")),
        ("sys.exit(0)", CRASHED.format("a.mp4", "status 0")),
        ("os.write(1, b'{'); os.abort()", CRASHED.format("a.mp4", "SIGABRT")),
        ("os.close(1); time.sleep(60)", SLOW.format("a.mp4", "0.1")),
        ("time.sleep(60)", SLOW.format("a.mp4", "0.1")),
        ("while True: os.write(1, b'x'); time.sleep(0.05)", SLOW.format("a.mp4", "0.1")),
    ],
)
def test_a_child_that_answers_nonsense(code: str, message: str) -> None:
    limits = SHORT if message == SLOW.format("a.mp4", "0.1") else LONG
    with DecoderClient(limits, command=fake(code)) as guard:
        assert message_of(guard, Path("a.mp4")) == message
        assert message_of(guard, Path("a.mp4")) == message


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["/nowhere/python"], "no such file or directory"),
        ([sys.executable, "-c", "import sys; sys.exit(1)"], "status 1"),
        ([sys.executable, "-c", "print('hello', flush=True); import time; time.sleep(60)"], "no answer"),
        ([sys.executable, "-c", "import os; os.abort()"], "SIGABRT"),
    ],
)
def test_a_child_that_does_not_start(command: Sequence[str], why: str) -> None:
    with DecoderClient(command=command) as guard:
        guard.start()
        message = f"'a.mp4' can't be decoded: the decoder doesn't start ({why}). Install vllava again."
        assert message_of(guard, Path("a.mp4")) == message


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_the_documentations_loop_runs_in_the_child_too(shared: DecoderClient, name: str) -> None:
    path = write_clip(Path(name), 24, encoding=VP9 if name == "a.webm" else H264)
    assert shared.documented(path) == Clip(path=path, kind="video", width=64, height=48, frame_count=24)
    with pytest.raises(MediaError, match="neither a video nor an image"):
        Path("text.mp4").write_text("Dear diary")
        shared.documented(Path("text.mp4"))
