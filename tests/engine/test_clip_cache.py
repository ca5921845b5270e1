"""What one process read of a clip is there for the next one, which gives the same answers and trusts no wrong file."""

from __future__ import annotations

import os
import resource
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.checkpoints import write_checkpoint
from tests.engine.batches import as_asked, run
from tests.engine.engines import EXACT, FREE, PATHS, after, ask, generated, new_ids, tokens_of
from tests.reference import Reference
from vllava_cli import demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine import clip_cache
from vllava_cli.engine.clip_cache import SETTING, USUAL_BYTES, ClipCache, clips_folder, kept_clips, limit_bytes
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.kv_cache import Prompt
from vllava_cli.engine.load import load
from vllava_cli.engine.weight_cache import LOCK
from vllava_cli.errors import UsageError
from vllava_cli.interrupt import Cancel, CancelError
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Adapter, Framing, LoadPlan, Log
from vllava_cli.storage.files import locked, release

pytestmark = pytest.mark.usefixtures("one_thread")
PLENTY = 1 << 40
CLIP, IMAGE = PATHS["red-circle-moves-left.mp4"], next(path for path in demo.clips() if path.suffix == ".png")
OTHER = next(path for path in demo.clips() if path.suffix == ".mp4" and path != CLIP)
QUESTION = "What happens in this video?"


@dataclass(kw_only=True)
class Processes:
    """Each call is what a new process has: the model without towers, frames read again, and the same folder."""

    folder: Path
    checkpoint: Path = demo.CHECKPOINT
    plan: LoadPlan = EXACT
    most_bytes: int = PLENTY
    least_gain_s: float = -inf
    free_bytes: Callable[[Path], int] = lambda _: PLENTY
    notices: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def cache(self) -> ClipCache:
        log = Log(notice=self.notices.append, detail=self.details.append)
        found = ClipCache.of(self.plan, tokens_of(self.checkpoint), most_bytes=self.most_bytes, log=log)
        assert found
        own = {"folder": self.folder, "least_gain_s": self.least_gain_s, "free_bytes": self.free_bytes}
        return replace(found, least_bytes=0, **own)

    def __call__(self) -> Engine:
        engine = load(EXACT, tokens_of(self.checkpoint), set())
        engine.clips = self.cache()
        return engine

    def shown(self, *paths: Path, framing: Framing | None = None) -> Conversation:
        framing = framing or Framing()
        return Conversation(attached=tuple(sample(path, framing) for path in paths), fit=framing.fit)

    def ask(self, *paths: Path, question: str = QUESTION) -> tuple[str, int, int]:
        """The answer of a new process, which then keeps what it read; the clips it looked at, and what it reused."""
        self.notices.clear()
        self.details.clear()
        engine, conversation = self(), self.shown(*paths or (CLIP,))
        answer = ask(engine, conversation, question)
        engine.keep_clips()
        return answer.text, answer.stats.tower_calls, answer.stats.reused_tokens

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*") if path.name != LOCK)


@pytest.fixture
def later(tmp_path: Path) -> Processes:
    return Processes(folder=tmp_path / "vllava" / "clips")


@pytest.mark.parametrize("paths", [(CLIP,), (IMAGE,), (IMAGE, CLIP), (CLIP, OTHER)])
def test_a_later_process_reads_only_the_question_and_gives_the_ids_of_generate(
    paths: tuple[Path, ...], later: Processes, reference: Reference
) -> None:
    later.ask(*paths)
    for question in (QUESTION, "And its colour?"):
        engine, conversation = later(), later.shown(*paths)
        assert engine.clips and engine.clips.has_all(conversation)
        ids = new_ids(engine, conversation, question)
        stats = conversation.turns[-1].stats
        assert ids == generated(engine, reference, question, *paths)
        assert (stats.tower_calls, stats.prompt_tokens - stats.reused_tokens < 16) == (0, True)
        assert (engine.model.model.video_tower, engine.model.model.image_tower) == (None, None)
    assert len(later.files) == 1


def test_a_later_process_calibrates_choices_without_having_seen_the_clip(later: Processes) -> None:
    sampling = Sampling(choices=("red", "blue"), is_calibrated=True)
    found = []
    for calls in (1, 0):
        engine = later()
        answer = ask(engine, later.shown(CLIP), "What colour is it?", sampling)
        engine.keep_clips()
        assert answer.stats.tower_calls == calls
        found.append(answer.probabilities)
    assert found[1] == pytest.approx(found[0], abs=1e-5)


def test_what_is_kept_is_told_once_and_only_this_user_can_read_it(later: Processes) -> None:
    before, calls, reused = later.ask()
    (file,) = later.files
    assert later.notices == [
        f"vllava: kept what the model read of the clip (0.1 GiB) in {later.folder}, for later questions about it. "
        "At most 1024.0 GiB are kept; --no-clip-cache keeps nothing."
    ]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (later.folder, file)] == [0o700, 0o600]
    assert (calls, reused) == (1, 0)
    after, calls, reused = later.ask()
    assert (after, calls, reused > 100) == (before, 0, True)
    assert later.notices == []
    assert later.details == [f"clip: what was read of it before is in {file}."]
    later.ask(OTHER)
    assert later.notices == []
    assert later.details == [f"clip: kept what the model read of the clip (0.1 GiB) in {later.folder}."]


def test_a_second_clip_goes_on_from_the_first(later: Processes) -> None:
    later.ask()
    wanted = Processes(folder=later.folder.with_name("empty")).ask(CLIP, OTHER)[0]
    text, calls, reused = later.ask(CLIP, OTHER)
    assert (text, calls, reused > 100) == (wanted, 1, True)
    assert len(later.files) == 2


def test_a_conversation_keeps_its_first_clips_alone(later: Processes) -> None:
    engine, conversation = later(), later.shown(CLIP)
    ask(engine, conversation, QUESTION)
    conversation.attached = later.shown(OTHER).attached
    ask(engine, conversation, "And in this one?")
    engine.keep_clips()
    engine.keep_clips()
    assert len(later.files) == 1
    assert later.cache().has_all(later.shown(CLIP))


def test_other_clips_times_and_fits_are_read_anew_and_a_copy_is_not(
    later: Processes, clip: Path, other_clip: Path, tmp_path: Path
) -> None:
    later.ask(clip)
    copied = shutil.copy(clip, tmp_path / "copied.mp4")
    cases: list[tuple[tuple[Path, ...], Framing, bool]] = [
        ((clip,), Framing(), True),
        ((copied,), Framing(start_s=0), True),
        ((other_clip,), Framing(), False),
        ((clip, clip), Framing(), False),
        ((clip,), Framing(start_s=1), False),
        ((clip,), Framing(fit="squash"), False),
    ]
    for paths, framing, is_found in cases:
        assert later.cache().has_all(later.shown(*paths, framing=framing)) == is_found


@pytest.mark.parametrize(
    "change", [{"dtype": "bfloat16"}, {"quantisation": "4bit"}, {"device": "cuda:0"}, {"attention": "eager"}]
)
def test_another_plan_finds_nothing(change: dict[str, str], later: Processes) -> None:
    later.ask()
    later.plan = replace(EXACT, **change)  # type: ignore[arg-type]
    assert not later.cache().has_all(later.shown(CLIP))


def test_products_of_another_layout_find_nothing(later: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    later.plan = replace(EXACT, dtype="float16", is_held=True)
    for layout, is_found in (("rows", False), ("rows", True), ("torch", False)):
        monkeypatch.setattr(clip_cache, "products", lambda: SimpleNamespace(layout=layout))  # noqa: B023
        assert later.cache().has_all(later.shown(CLIP)) == is_found
        later.ask()


def test_another_adapter_or_a_changed_checkpoint_finds_nothing(later: Processes, tmp_path: Path) -> None:
    later.checkpoint = write_checkpoint(tmp_path / "model")
    later.ask()
    cache = later.cache()
    assert cache.has_all(later.shown(CLIP))
    adapter = Adapter(name="a", folder=tmp_path, revision=None, sha256="0")
    adapted = replace(cache.tokens, checkpoint=replace(cache.tokens.checkpoint, adapter=adapter))
    other = ClipCache.of(EXACT, adapted, most_bytes=PLENTY)
    assert other
    assert not replace(other, folder=later.folder).has_all(later.shown(CLIP))
    os.utime(later.checkpoint / "model.safetensors")
    assert not later.cache().has_all(later.shown(CLIP))


@pytest.mark.parametrize(
    "fault", ["cut", "scrambled", "empty", "of another clip", "open to all", "in a folder open to all"]
)
def test_a_wrong_file_costs_time_and_never_an_answer(fault: str, later: Processes) -> None:
    wanted = later.ask(OTHER)[0]
    (other,) = later.files
    later.ask()
    (file,) = [path for path in later.files if path != other]
    whole = file.read_bytes()
    if "all" in fault:
        (later.folder if "folder" in fault else file).chmod(0o777)
    else:
        contents = {"cut": whole[:-100], "scrambled": b"\xff" * len(whole), "empty": b""}
        file.write_bytes(contents.get(fault, other.read_bytes()))
    fresh = later.ask()
    assert fresh[1:] == (1, 0)
    assert fresh[0] != wanted
    assert later.details[0].startswith("clip: what was read of it before is not used: ")
    if "folder" not in fault:
        assert (later.ask()[1], file.read_bytes()) == (0, whole)


def test_what_was_not_used_for_longest_goes_first(later: Processes) -> None:
    later.ask()
    (first,) = later.files
    later.most_bytes = 5 * first.stat().st_size // 2
    later.ask(OTHER)
    (second,) = [path for path in later.files if path != first]
    os.utime(first, ns=(1, 1))
    os.utime(second, ns=(2, 2))
    later.ask()  # used again
    later.ask(IMAGE)
    assert first in later.files and len(later.files) == 3  # an image takes little
    later.ask(next(path for path in demo.clips() if path.suffix == ".mp4" and path not in (CLIP, OTHER)))
    assert first in later.files and second not in later.files


def test_nothing_is_kept_without_room_or_reason(later: Processes) -> None:
    def told() -> list[str]:
        assert (later.ask()[1], later.files, later.notices) == (1, [], [])
        return later.details

    later.least_gain_s = inf  # a fast GPU
    assert told() == []
    later.least_gain_s, later.most_bytes = -inf, 1000
    assert told() == [
        f"clip: not kept in {later.folder}: it takes 0.1 GiB, and at most 0.1 GiB are kept (VLLAVA_CLIP_CACHE)."
    ]
    later.most_bytes, later.free_bytes = PLENTY, lambda _: 1000
    assert told() == [f"clip: not kept in {later.folder}: it takes 0.1 GiB, and only 0.0 GiB of the disk are free."]
    later.free_bytes = lambda _: PLENTY
    descriptor = locked(later.folder / LOCK)
    assert told() == [f"clip: not kept in {later.folder}: another vllava is keeping one there now."]
    release(descriptor)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        assert told()[0].startswith(f"clip: not kept in {later.folder}: ")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    later.folder.rename(later.folder.with_name("away"))
    later.folder.write_text("a file")
    assert (later.ask()[1], len(later.details)) == (1, 1)


@pytest.mark.parametrize(("made_s", "is_kept"), [(1.9, False), (2.1, True)])
def test_small_and_quick_ones_are_not_kept(made_s: float, is_kept: bool, later: Processes) -> None:
    engine = later()
    ask(engine, later.shown(CLIP), QUESTION)
    assert engine.prompt_cache and engine.clips
    (beginning,) = engine.clips.beginnings(engine.prompt_cache.prompt)
    usual = ClipCache(folder=later.folder, tokens=engine.tokens, origin={})
    usual.keep(beginning, engine.prompt_cache.cache, 1e9)
    assert later.files == []
    replace(usual, least_bytes=0).keep(beginning, engine.prompt_cache.cache, made_s)
    assert len(later.files) == is_kept


def test_a_file_that_another_process_removes_meanwhile_is_still_read(later: Processes) -> None:
    later.ask()
    cache, conversation = later.cache(), later.shown(CLIP)
    ids = tuple(cache.tokens.known_ids(conversation))
    states = cache.find(Prompt(ids=ids, media=conversation.attached))
    later.files[0].unlink()
    assert states
    assert {keys.shape[2] for keys, _ in states} == {len(ids)}


def test_numbers_of_coarser_weights_are_kept_in_16_bits(later: Processes) -> None:
    later.ask()
    exact = later.files[0].stat().st_size
    later.plan = replace(EXACT, quantisation="4bit")
    text, calls, _ = later.ask()
    halved = max(later.files, key=lambda path: path.stat().st_mtime_ns)
    assert halved.stat().st_size < 0.6 * exact
    engine, conversation = later(), later.shown(CLIP)
    assert (ask(engine, conversation, QUESTION).text, calls) == (text, 1)
    assert engine.prompt_cache and engine.prompt_cache.cache.layers[0].keys.dtype == torch.float32
    assert conversation.turns[0].stats.tower_calls == 0
    assert engine.clips
    (beginning,) = engine.clips.beginnings(engine.prompt_cache.prompt)
    with torch.inference_mode():
        engine.prompt_cache.cache.layers[1].values[..., 0, 0] = 1e6
    halved.unlink()
    engine.clips.keep(beginning, engine.prompt_cache.cache, inf)
    assert later.details[-1] == f"clip: not kept in {later.folder}: a number is too large for F16."
    assert len(later.files) == 1


def test_a_stopped_writer_leaves_nothing_and_what_a_killed_one_left_goes(later: Processes) -> None:
    engine = later()
    ask(engine, later.shown(CLIP), QUESTION)
    with pytest.raises(CancelError):
        engine.keep_clips(Cancel(after(2)))
    assert later.files == []
    left = later.folder / ".0-1.safetensors.part"
    left.write_bytes(b"half of it")
    engine.keep_clips()
    assert len(later.files) == 1 and left not in later.files


def test_a_batch_reads_what_is_kept_and_fills_the_room_that_is_left(later: Processes) -> None:
    media = [sample(path, Framing()) for path in (CLIP, OTHER, IMAGE)]
    jobs = [(medium, question) for medium in media for question in (QUESTION, "And its colour?")]
    fresh = later()
    fresh.clips = None
    wanted = run(fresh, FREE, as_asked(jobs)).said
    text = later.ask()[0]
    later.most_bytes = 9 * later.files[0].stat().st_size // 4
    for calls, files in ((2, 3), (0, 3)):
        engine = later()
        assert run(engine, FREE, as_asked(jobs)).said == wanted
        assert (engine.vision.calls, len(later.files)) == (calls, files)
    assert wanted[jobs[0]][0] == text
    later.most_bytes = later.files[0].stat().st_size
    run(later(), FREE, as_asked([(later.shown(demo.clips()[-1]).attached[0], QUESTION)]))
    assert len(later.files) == 3


@pytest.mark.parametrize(("wish", "size"), [("", USUAL_BYTES), ("0", 0), ("512M", 512 << 20), ("1.5g", 3 << 29)])
def test_the_limit_is_a_setting(wish: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, wish)
    assert limit_bytes() == size
    assert (ClipCache.of(EXACT, tokens_of(demo.CHECKPOINT), most_bytes=size) is None) == (size == 0)


def test_another_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTING, "much")
    with pytest.raises(UsageError, match=r"^VLLAVA_CLIP_CACHE: 'much' is not a size: give bytes with K, M or G"):
        limit_bytes()


def test_the_folder_is_beside_the_kept_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAVA_CACHE", str(tmp_path))
    later = Processes(folder=tmp_path / "clips")
    assert (clips_folder(), kept_clips()) == (later.folder, None)
    later.ask()
    found = kept_clips()
    assert found
    assert (found.folder, found.count, found.bytes) == (later.folder, 1, later.files[0].stat().st_size)
