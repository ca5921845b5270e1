"""Quantised weights are kept once, used as long as nothing that they follow from has changed, and never in the way."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.checkpoints import write_checkpoint
from tests.engine.engines import EXACT, conversation_about, engine_like, tokens_of
from tests.engine.keepsakes import PLAN, made, put
from vllava_cli.commands.start import start as begin
from vllava_cli.demo import CHECKPOINT
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.kv_cache import Prompt
from vllava_cli.engine.load import load
from vllava_cli.engine.weight_cache import (
    LABEL,
    LEAST_BYTES,
    LOCK,
    PART,
    CachedWeights,
    Origin,
    WeightCache,
    all_cached,
    cache_folder,
    origin_of,
    read_cached,
)
from vllava_cli.errors import MemoryShortError
from vllava_cli.nouns import (
    LoadPlan,
    Log,
    MediaKind,
    Quantisation,
    Wishes,
)
from vllava_cli.storage.files import locked, release
from vllava_cli.times import Stopwatch

pytest.importorskip("bitsandbytes")

PLENTY = 1 << 40


@dataclass(kw_only=True)
class Start:
    """Starts of vllava with one checkpoint and one cache, and what they said."""

    checkpoint: Path
    cache: Path
    is_held: bool = False
    """Whether the CPU holds them as it does at the command line; else bitsandbytes does, as on a GPU."""
    least_bytes: int = 0
    free_bytes: Callable[[Path], int] = lambda _: PLENTY
    notices: list[str] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def __call__(self, quantisation: Quantisation | None = "4bit", kinds: tuple[MediaKind, ...] = ("video",)) -> Engine:
        self.notices.clear()
        self.details.clear()
        plan = replace(EXACT, quantisation=quantisation, is_held=self.is_held)
        return load(plan, tokens_of(self.checkpoint), kinds, cache=self.store)

    @property
    def store(self) -> WeightCache:
        log = Log(notice=self.notices.append, detail=self.details.append)
        return WeightCache(folder=self.cache, log=log, least_bytes=self.least_bytes, free_bytes=self.free_bytes)

    @property
    def weights(self) -> Path:
        """The first file of the only set."""
        (name,) = self.names
        return sorted((self.cache / name).glob("*.safetensors"))[0]

    @property
    def names(self) -> list[str]:
        return sorted(path.name for path in self.cache.iterdir() if not path.name.startswith("."))


@pytest.fixture(params=[False, True], ids=["bitsandbytes", "held"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    checkpoint, cache = write_checkpoint(tmp_path / "model"), tmp_path / "cache" / "quantised"
    return Start(checkpoint=checkpoint, cache=cache, is_held=request.param)


def logits(engine: Engine, clip: Path) -> torch.Tensor:
    """Behind a prompt about a clip.

    How a CPU sums depends on where in memory a tensor begins, and those of a mapped file begin where its header ends:
    without copies the last bit differs (6e-8) between two files with the same weights.
    """
    for value in engine.model.parameters():
        value.data = value.data.clone()
    engine = engine_like(engine)
    conversation = conversation_about(clip)
    ids = tuple(engine.tokens.prompt_ids(conversation, "what"))
    found = engine.read(Prompt(ids=ids, media=conversation.media, fit="crop"))
    assert found is not None
    return found


def change_a_weight(checkpoint: Path) -> None:
    """As large as before."""
    path = checkpoint / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in sorted(weights) if name.endswith("layers.0.mlp.up_proj.weight"))
    weights[name] = weights[name].flip(0).contiguous()
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("quantisation", ["4bit", "8bit"])
@pytest.mark.parametrize("kinds", [("video",), ("image", "video")])
def test_a_later_start_reads_what_the_first_kept_and_gives_the_same_bits(
    kinds: tuple[MediaKind, ...], quantisation: Quantisation, start: Start, clip: Path
) -> None:
    first = start(quantisation, kinds)
    folder = start.cache / start.names[0]
    assert start.notices == [f"vllava: kept the {quantisation} weights (0.1 GiB) in {folder}; later starts read those."]
    assert start.details == []
    second = start(quantisation, kinds)
    assert (start.notices, start.details) == ([], [f"weights: read from the weight cache, {folder}."])
    assert states(second).keys() == states(first).keys()
    assert all(torch.equal(value, states(first)[name]) for name, value in states(second).items())
    assert torch.equal(logits(second, clip), logits(first, clip))


def test_the_commands_read_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAVA_CACHE", str(tmp_path))
    start = Start(checkpoint=CHECKPOINT, cache=tmp_path / "quantised", is_held=True)
    start()
    details: list[str] = []
    begin(
        Wishes(model="demo", device="cpu", precision="4bit"),
        tokens_of(CHECKPOINT),
        ["video"],
        Log(notice=start.notices.append, detail=details.append),
        Stopwatch(),
        check=details.append,
    )
    assert details[-1] == f"weights: read from the weight cache, {start.cache / start.names[0]}."


@pytest.mark.parametrize("quantisation", [None, "4bit"])
def test_weights_of_little_size_or_none_that_are_quantised_are_not_kept(
    quantisation: Quantisation | None, start: Start
) -> None:
    start.least_bytes = LEAST_BYTES if quantisation else 0
    start(quantisation)
    assert (start.cache.exists(), start.notices, start.details) == (False, [], [])


def test_a_changed_weight_is_never_answered_for_by_the_old_ones(start: Start, clip: Path) -> None:
    before = logits(start(), clip)
    old = start.names
    size, times = facts(start.checkpoint)
    change_a_weight(start.checkpoint)
    os.utime(start.checkpoint / "model.safetensors", ns=times)
    assert facts(start.checkpoint) == (size, times)
    after = logits(start(), clip)
    assert not torch.equal(after, before)
    assert len(start.notices) == 1
    assert len(start.names) == 1 and start.names != old
    assert torch.equal(logits(start(), clip), after)
    assert start.notices == []


def test_an_image_after_a_video_reads_what_is_kept(start: Start) -> None:
    """Towers aren't quantised: they are the checkpoint's, and no part of what is kept."""
    start("4bit", ("video",))
    (name,) = start.names
    assert not [key for key in load_file(start.weights) if "tower" in key]
    engine = start("4bit", ("video", "image"))
    assert (start.names, start.notices) == ([name], [])
    assert start.details == [f"weights: read from the weight cache, {start.cache / name}."]
    assert engine.model.model.image_tower is not None


@contextmanager
def address_space(more_bytes: int) -> Iterator[None]:
    """Leaves this process so much address space beyond what it has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_AS and /proc")
def test_a_shortage_of_memory_costs_no_kept_weights(start: Start, clip: Path) -> None:
    fresh = logits(start(), clip)
    (name,) = start.names
    weights = start.weights
    weights.write_bytes(weights.read_bytes())
    with pytest.raises(MemoryShortError), address_space(weights.stat().st_size // 2):
        start()
    read = f"weights: read from the weight cache, {start.cache / name}."
    assert start.details in ([], [read])  # where memory ran out depends on what earlier tests left free
    assert torch.equal(logits(start(), clip), fresh)
    assert start.details == [read]


def test_whole_weights_that_cannot_be_read_stay(start: Start) -> None:
    """Whatever is the matter: only what is proved to be damaged goes."""
    start()
    folder = start.cache / start.names[0]
    start.store.drop_if_damaged(folder, "no such kernel")
    assert start.details == [f"weights: the cached set in {folder} stays there unused: no such kernel."]
    assert folder.exists()


def test_weights_that_others_could_have_written_are_not_read(start: Start) -> None:
    start()
    folder = start.cache / start.names[0]
    assert stat.S_IMODE(start.cache.stat().st_mode) == 0o700
    weights = start.weights
    for path, mode in ((start.cache, 0o770), (folder, 0o777), (weights, 0o666)):
        before = path.stat().st_mode
        path.chmod(mode)
        start()
        assert start.details[0] == (
            f"weights: the cached set in {folder} is not read: {path} is not yours alone, others may write to it."
        )
        path.chmod(stat.S_IMODE(before))
    start()
    assert start.details == [f"weights: read from the weight cache, {folder}."]


@pytest.mark.parametrize("damage", ["cut", "scrambled", "gone", "label"])
def test_damaged_weights_are_dropped_and_quantised_anew(damage: str, start: Start, clip: Path) -> None:
    fresh = logits(start(), clip)
    folder = start.cache / start.names[0]
    path = folder / LABEL if damage == "label" else start.weights
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage in ("cut", "label") else b"\xff" * len(whole))
    assert torch.equal(logits(start(), clip), fresh)
    assert len(start.notices) == 1
    dropped = f"weights: the cached set in {folder} is damaged and dropped; the weights are quantised again."
    assert start.details == [dropped] * (damage == "scrambled")
    assert start.names == [folder.name]
    start()
    assert start.details == [f"weights: read from the weight cache, {folder}."]


def test_a_disk_that_runs_full_gets_nothing(start: Start, clip: Path) -> None:
    """save_pretrained has no room for its first file."""
    fresh = logits(start(), clip)
    shutil.rmtree(start.cache)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
    try:
        engine = start()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert torch.equal(logits(engine, clip), fresh)
    assert [path.name for path in start.cache.iterdir()] == [LOCK]
    assert start.notices == []
    assert [text.startswith(f"weights: not kept in {start.cache}: ") for text in start.details] == [True]


def test_on_a_disk_with_little_free_space_nothing_is_kept(start: Start) -> None:
    start.free_bytes = lambda _: 1000
    start()
    assert (start.names, start.notices) == ([], [])
    assert start.details == [
        f"weights: not kept in {start.cache}: they take 0.1 GiB, and only 0.0 GiB of the disk are free."
    ]


def test_a_cache_that_cannot_be_a_folder_is_no_error(start: Start) -> None:
    start.cache.parent.write_text("a file")
    start()
    assert start.notices == []
    assert [text.startswith(f"weights: not kept in {start.cache}: ") for text in start.details] == [True]


def test_while_another_process_keeps_weights_none_are_kept_and_what_a_killed_one_left_goes(start: Start) -> None:
    part = start.cache / PART
    part.mkdir(parents=True)
    (part / "model.safetensors").write_bytes(b"half of it")
    descriptor = locked(start.cache / LOCK)
    start()
    release(descriptor)
    assert start.details == [f"weights: not kept in {start.cache}: another vllava is keeping some there now."]
    assert part.exists()
    start()
    assert (len(start.notices), part.exists()) == (1, False)


def test_what_another_process_kept_meanwhile_is_left_alone(start: Start) -> None:
    """The disk's space is asked for behind the search and before the lock."""
    other = Start(checkpoint=start.checkpoint, cache=start.cache, is_held=start.is_held)
    start.free_bytes = lambda _: PLENTY * bool(other())
    start()
    assert len(other.notices) == 1
    assert (start.notices, start.details) == ([], [])


class Meddled(WeightCache):
    """Someone saves a checkpoint again when its facts were taken and its weights not yet read."""

    def find(self, origin: Origin) -> Path | None:
        change_a_weight(self.folder.parent / "model")
        return super().find(origin)


def test_a_checkpoint_that_changes_while_it_is_read_is_not_kept(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    notices: list[str] = []
    store = Meddled(folder=tmp_path / "cache", log=Log(notice=notices.append, detail=notices.append), least_bytes=0)
    load(replace(EXACT, quantisation="4bit"), tokens_of(folder), ["video"], cache=store)
    assert notices == []
    assert not store.folder.exists()


def facts(checkpoint: Path) -> tuple[int, tuple[int, int]]:
    """The size of the weights and their times."""
    found = (checkpoint / "model.safetensors").stat()
    return found.st_size, (found.st_atime_ns, found.st_mtime_ns)


def states(engine: Engine) -> dict[str, torch.Tensor]:
    return dict(engine.model.state_dict())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(
    ("plan", "is_same"),
    [
        (replace(PLAN, device="cuda:0", device_reason="Another test.", attention="eager"), True),
        (replace(PLAN, quantisation="8bit"), False),
        (replace(PLAN, dtype="float32"), False),
        (replace(PLAN, device="cpu"), False),
    ],
)
def test_each_form_has_a_name_of_its_own(plan: LoadPlan, is_same: bool, checkpoint: Path) -> None:
    assert (made(checkpoint, plan).name == made(checkpoint).name) == is_same


def test_other_settings_or_libraries_have_another_name(checkpoint: Path) -> None:
    origin = made(checkpoint)
    names = {
        origin.name,
        made(checkpoint, bnb_4bit_use_double_quant=True).name,
        replace(origin, versions=(*origin.versions[1:], "torch 0")).name,
        replace(origin, layout=origin.layout + 1).name,
    }
    assert len(names) == 4
    assert [version.split()[0] for version in origin.versions] == ["transformers", "bitsandbytes", "torch"]


def larger(path: Path) -> None:
    path.write_bytes(b"more weights")


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def replaced(path: Path) -> None:
    """By another file of the same size and date."""
    facts = path.stat()
    (path.parent / "new").write_bytes(b"WEIGHTS")
    os.utime(path.parent / "new", ns=(facts.st_atime_ns, facts.st_mtime_ns))
    (path.parent / "new").replace(path)


def joined(path: Path) -> None:
    (path.parent / "model-2.safetensors").write_bytes(b"")


@pytest.mark.parametrize("change", [larger, touched, replaced, joined])
def test_a_changed_checkpoint_has_another_name(change: Callable[[Path], None], checkpoint: Path) -> None:
    before = made(checkpoint).name
    change(checkpoint / "model.safetensors")
    assert made(checkpoint).name != before


def test_links_are_followed_to_the_files(checkpoint: Path, tmp_path: Path) -> None:
    link = tmp_path / "snapshot"
    link.symlink_to(checkpoint)
    assert made(link).name == made(checkpoint).name


def test_a_checkpoint_that_lacks_a_file_has_no_origin(checkpoint: Path) -> None:
    (checkpoint / "model-2.safetensors").symlink_to("nowhere")
    assert origin_of(checkpoint, PLAN, {}) is None


def test_what_is_kept_is_told_by_model(checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    second = put(cache, made(checkpoint), model="b")
    first = put(cache, made(checkpoint, replace(PLAN, quantisation="8bit")), model="a")
    assert all_cached(cache) == (
        CachedWeights(folder=first, model="a", precision="8bit", bytes=5),
        CachedWeights(folder=second, model="b", precision="4bit", bytes=5),
    )


def test_what_is_not_whole_or_not_ours_is_not_there(checkpoint: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    origin = made(checkpoint)
    folder = put(cache, origin)
    (cache / "a file").write_text("")
    folder.rename(cache / "copy of it")
    (cache / "empty").mkdir()
    assert (all_cached(cache), read_cached(folder)) == ((), None)
    (cache / "copy of it").rename(folder)
    assert [kept.folder for kept in all_cached(cache)] == [folder]
    (folder / "model.safetensors").write_bytes(b"smaller")
    assert (all_cached(cache), read_cached(folder)) == ((), None)


@pytest.mark.parametrize("label", ["", "[]", "null", '{"sizes": []}', '{"sizes": {}, "origin": 1, "model": 2}'])
def test_a_foreign_label_is_not_there(label: str, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / LABEL).write_text(label)
    assert all_cached(tmp_path) == ()


def test_the_cache_is_the_users_or_where_it_is_wished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLAVA_CACHE", "/fast/disk")
    assert cache_folder() == Path("/fast/disk/quantised")
    monkeypatch.delenv("VLLAVA_CACHE")
    assert cache_folder().parts[-2:] == ("vllava", "quantised")
