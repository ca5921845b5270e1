"""stdin as a clip: what is kept, for whom, for how long, and what is refused."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.clips import MPEG4, write_clip
from vllava_cli.errors import MediaError
from vllava_cli.media.decoder.stdin_file import Reader
from vllava_cli.media.sample import sample
from vllava_cli.media.stdin_copy import spooled
from vllava_cli.nouns import Framing


def stream(folder: Path, data: bytes) -> BinaryIO:
    """An open file, as stdin is one."""
    path = folder / "source"
    path.write_bytes(data)
    return path.open("rb")


def test_stdin_is_kept_whole_and_private_up_to_the_limit(tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    with spooled(stream(tmp_path, data), max_bytes=len(data)) as path:
        assert path.read_bytes() == data
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"x" * 1025, "stdin has more than 9.53674e-07 GiB, the most that is taken: save it to a file and name that."),
        (b"", "stdin is empty (0 bytes): pipe a video to it, as in cat clip.mp4 | vllava probe -."),
    ],
)
def test_nothing_and_too_much_are_refused(tmp_path: Path, data: bytes, sentence: str) -> None:
    with pytest.raises(MediaError) as caught, spooled(stream(tmp_path, data), max_bytes=1024):
        pass
    assert str(caught.value) == sentence


def test_a_reader_gives_what_sample_gives_under_the_name_of_stdin(tmp_path: Path) -> None:
    clip, name = write_clip(tmp_path / "a.mp4", 20), Path("-")
    expected = sample(clip, Framing())
    with clip.open("rb") as stdin, Reader(stdin=stdin) as reader:
        frames, again, facts = reader.sample(name, Framing()), reader.sample(name, Framing()), reader.probe(name)
    assert (frames.pixels == expected.pixels).all()
    assert (again.pixels == expected.pixels).all()
    assert (frames.times_s, frames.clip.path, facts.path) == (expected.times_s, name, name)


def test_a_file_is_read_under_its_own_name(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.mp4", 20)
    with Reader() as reader:
        reader.check(clip)
        assert reader.probe(clip).path == clip


def test_messages_say_stdin_instead_of_the_temporary_file(tmp_path: Path) -> None:
    with (
        Reader(stdin=stream(tmp_path, b"Dear diary, this is no film.\n" * 100)) as reader,
        pytest.raises(MediaError) as caught,
    ):
        reader.sample(Path("-"), Framing())
    assert str(caught.value) == ("stdin is text, not a video or an image. Check the path.")


def test_faults_say_stdin_too(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.avi", 60, encoding=MPEG4).read_bytes()
    with Reader(stdin=stream(tmp_path, clip[: len(clip) * 2 // 3])) as reader:
        (fault,) = reader.probe(Path("-")).faults
    assert re.fullmatch(r"\d+ of 60 frames of stdin could be decoded: the file is truncated or damaged\.", fault)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_nothing_is_left_behind(error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    clip, before = write_clip(tmp_path / "a.mp4", 4), signal.getsignal(signal.SIGTERM)
    with pytest.raises(error), clip.open("rb") as stdin, Reader(stdin=stdin) as reader:
        reader.probe(Path("-"))
        assert len(list((tmp_path / "temporary").iterdir())) == 1
        raise error
    assert list((tmp_path / "temporary").iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def probing(folder: Path, limit: Callable[[], None] | None = None) -> subprocess.Popen[bytes]:
    """vllava probe -, with its temporary files in `folder`."""
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-m", "vllava_cli", "probe", "-"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, preexec_fn=limit)


def test_a_terminated_process_leaves_nothing_behind(tmp_path: Path) -> None:
    process = probing(tmp_path)
    assert process.stdin
    process.stdin.write(bytes(4_000_000))  # returns only once most of it was read
    process.stdin.flush()
    assert [path.name.startswith("vllava-") for path in tmp_path.iterdir()] == [True]
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)
    out, err = process.communicate()
    assert (process.returncode, out, err) == (143, b"", b"")
    assert list(tmp_path.iterdir()) == []


def _only_a_megabyte() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_a_file_that_cannot_grow_is_one_sentence(tmp_path: Path) -> None:
    out, err = probing(tmp_path, _only_a_megabyte).communicate(bytes(4_000_000), timeout=60)
    sentence = f"stdin can't be kept in {tmp_path}: file too large. Set TMPDIR to a folder with room, or name a file."
    assert (out, err.decode()) == (b"", f"vllava: {sentence}\n")
    assert list(tmp_path.iterdir()) == []


def test_names_of_another_folder_stay_as_they_were_given(tmp_path: Path) -> None:
    folder = tmp_path / "films"
    folder.mkdir()
    write_clip(folder / "a.mp4", 20)
    (folder / "b.mp4").write_bytes(b"no clip")
    (folder / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello.\n")
    with Reader(folder=folder) as reader:
        found = reader.sample(Path("a.mp4"), Framing())
        reader.check(Path("a.mp4"))
        assert (found.clip.path, reader.file(Path("a.mp4"))) == (Path("a.mp4"), folder / "a.mp4")
        assert reader.beside(Path("a.mp4")) == Path("a.srt")
        assert reader.subtitles(Path("a.mp4"), Path("a.srt")).source == "a.srt"
        assert reader.beside(folder / "a.mp4") == folder / "a.srt"
        for ask in (reader.check, lambda name: reader.sample(name, Framing())):
            for name in (Path("none.mp4"), folder / "none.mp4"):
                with pytest.raises(MediaError, match=f"^There is no file '{name}'. Check the path.$"):
                    ask(name)
        with pytest.raises(MediaError, match=r"^'b\.mp4' "):
            reader.sample(Path("b.mp4"), Framing())
    with Reader(copy=folder / "a.mp4") as reader:
        assert reader.sample(Path("-"), Framing()).clip.path == Path("-")
    with Reader(copy=folder / "b.mp4") as reader, pytest.raises(MediaError, match=r"^stdin "):
        reader.sample(Path("-"), Framing())
    assert (folder / "b.mp4").exists()
