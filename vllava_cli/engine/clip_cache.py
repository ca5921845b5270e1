"""KV caches of clips on this disk: later processes go on from there instead of reading the clip again.

A file holds the keys and values of a prompt's beginning, up to the end of its clips. Its name and header tell all that
these numbers follow from: the weights, the form, the versions, the ids, and the pixels that the tower gets. So a file
can never be stale. It is written under another name, flushed and renamed. A file that can't be read or written costs
time and raises no error.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from vllava_cli import __version__
from vllava_cli.answers import Conversation
from vllava_cli.engine.cpu.products import products
from vllava_cli.engine.kv_cache import KVCache, Prompt
from vllava_cli.engine.tokens import Tokens, digest_of
from vllava_cli.engine.weight_cache import FREE_PER_BYTE, LEAST_BYTES, LOCK, cache_folder, origin_of
from vllava_cli.errors import LockedError, OutputError, UsageError, reason_of
from vllava_cli.interrupt import NEVER, Cancel, CancelError
from vllava_cli.media.pixels import PixelDigests
from vllava_cli.memory import free_gib, gib
from vllava_cli.nouns import (
    SILENT,
    LoadPlan,
    Log,
)
from vllava_cli.storage.files import atomic_write, locked, make_private, private_fault, release, size_bytes

SETTING = "VLLAVA_CLIP_CACHE"
USUAL_BYTES = 4 << 30
LAYOUT = 1
"""The layout of a file; increase it when the same key begins to stand for other numbers."""
SUFFIX = ".safetensors"
READ_BYTES_PER_S = 250e6
"""The speed of a slow disk."""
LEAST_GAIN_S = 2.0
"""A later process must save this much: a fast GPU reads a clip sooner than a disk."""
States = Iterator[tuple[torch.Tensor, torch.Tensor]]
"""The keys and values [1, heads, L, size] of each layer, in the dtype that the cache had."""
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True, kw_only=True)
class KeptClips:
    """The files that a clip cache holds."""

    folder: Path
    count: int
    bytes: int
    most_bytes: int


@dataclass(kw_only=True)
class ClipCache:
    """Finds and keeps the KV caches of clips for one model and plan; one process writes at a time.

    All files together take at most `most_bytes`: those that weren't used for the longest time go first.
    """

    folder: Path
    tokens: Tokens
    origin: dict[str, Any]
    """All that the numbers follow from, besides the prompt."""
    is_halved: bool = False
    """True where numbers in 32 bits are kept in 16, as the weights they come from have no more."""
    most_bytes: int = USUAL_BYTES
    least_bytes: int = LEAST_BYTES
    least_gain_s: float = LEAST_GAIN_S
    log: Log = SILENT
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free

    def __post_init__(self) -> None:
        self.digests = PixelDigests(self.tokens.checkpoint)

    @classmethod
    def of(cls, plan: LoadPlan, tokens: Tokens, *, most_bytes: int, log: Log = SILENT) -> ClipCache | None:
        """Returns this user's cache for a model and a plan; None for 0 bytes, or if files can't be examined."""
        settings = {"attention": plan.attention, "vllava": __version__, "layout": LAYOUT, "wide": plan.wide_dtype}
        if plan.is_held:  # products of another layout round weights otherwise, and want keys of another dtype
            settings["products"] = products().layout
        checkpoint = tokens.checkpoint
        origin = origin_of(checkpoint.folder, plan, settings, adapter=checkpoint.adapter)
        if not most_bytes or origin is None:
            return None
        return cls(
            folder=clips_folder(),
            tokens=tokens,
            origin=asdict(origin),
            is_halved=plan.precision != "fp32",
            most_bytes=most_bytes,
            log=log,
        )

    def beginnings(self, prompt: Prompt) -> list[Prompt]:
        """Returns the beginnings of a prompt that end with one of its clips, the longest first."""
        starts = self.tokens.media_starts(prompt.ids, prompt.media)
        ends = [start + self.tokens.tokens_of(medium.kind) for start, medium in zip(starts, prompt.media, strict=True)]
        found = [
            replace(prompt, ids=prompt.ids[:end], media=prompt.media[:count]) for count, end in enumerate(ends, start=1)
        ]
        return found[::-1]

    def has_all(self, conversation: Conversation) -> bool:
        """True if one file has all media of a conversation, as the beginning of a prompt."""
        if not conversation.media:
            return False
        ids = tuple(self.tokens.known_ids(conversation))
        whole = Prompt(ids=ids, media=conversation.media, fit=conversation.fit)
        return self._has(self.beginnings(whole)[0])

    def find(self, beginning: Prompt) -> States | None:
        """Returns the KV cache of a prompt's beginning, layer by layer; None if there is none that can be trusted."""
        try:
            found = self._found(beginning)
        except Exception as exc:  # safetensors raises a type of its own
            self._report(f"what was read of it before is not used: {reason_of(exc)}")
            return None
        if found:
            path, states = found
            with suppress(OSError):
                os.utime(path)
            self._report(f"what was read of it before is in {path}")
            return states
        return None

    def keep(
        self, beginning: Prompt, cache: KVCache, made_s: float, *, cancel: Cancel = NEVER, drops_others: bool = True
    ) -> None:
        """Writes the first part of a KV cache, which it took `made_s` to make, if reading it is that much faster.

        Unless it `drops_others`, it is written only where there is room. Errors: CancelError.
        """
        count = len(beginning.ids)
        states = [each[:, :, :count] for layer in cache.layers for each in (layer.keys, layer.values)]
        dtype = torch.float16 if self.is_halved and states[0].dtype == torch.float32 else states[0].dtype
        size = sum(each.numel() for each in states) * dtype.itemsize
        is_slow = made_s - size / READ_BYTES_PER_S >= self.least_gain_s
        if size < self.least_bytes or not is_slow or self._has(beginning):
            return
        label = self._label(beginning)
        is_first = not self.folder.exists()
        try:
            make_private(self.folder)
            lock = locked(self.folder / LOCK, 0o600)
            try:
                self._make_room(size, drops_others=drops_others)
                atomic_write(self._path(label), _pieces(states, dtype, label, cancel), mode=0o600)
            finally:
                release(lock)
        except CancelError:
            raise
        except LockedError:
            self._report(f"not kept in {self.folder}: another vllava is keeping one there now")
        except Exception as exc:  # for lack of memory, too
            self._report(f"not kept in {self.folder}: {reason_of(exc)}")
        else:
            self._tell(size, is_first=is_first)

    def _tell(self, size: int, *, is_first: bool) -> None:
        text = f"kept what the model read of the clip ({gib(size)}) in {self.folder}"
        if is_first:
            most = gib(self.most_bytes)
            self.log.notice(
                f"vllava: {text}, for later questions about it. At most {most} are kept; --no-clip-cache keeps nothing."
            )
        else:
            self._report(text)

    def _report(self, what: str) -> None:
        self.log.detail(f"clip: {what}.")

    def _make_room(self, size: int, *, drops_others: bool) -> None:
        """Removes what killed writers left, and the files that were used the longest time ago. Errors: OutputError."""
        for left in self.folder.glob(f".*{SUFFIX}.part"):
            left.unlink(missing_ok=True)
        files = sorted(((path.stat(), path) for path in _files(self.folder)), key=lambda each: each[0].st_mtime_ns)
        held = sum(facts.st_size for facts, _ in files)
        if size > self.most_bytes or (not drops_others and held + size > self.most_bytes):
            raise OutputError(f"it takes {gib(size)}, and at most {gib(self.most_bytes)} are kept ({SETTING})")
        over = max(0, held + size - self.most_bytes)
        free = self.free_bytes(self.folder)
        if free + over < FREE_PER_BYTE * size:
            raise OutputError(f"it takes {gib(size)}, and only {free_gib(free)} GiB of the disk are free")
        for facts, path in files:
            if over <= 0:
                break
            path.unlink()
            over -= facts.st_size

    def _has(self, beginning: Prompt) -> bool:
        with suppress(Exception):
            return self._found(beginning) is not None
        return False

    def _found(self, beginning: Prompt) -> tuple[Path, States] | None:
        """Maps a file; None if there is none. Errors: OutputError, ValueError, OSError, those of safetensors."""
        if not any(self.folder.glob(f"{self._model}-*{SUFFIX}")):  # most often: then the pixels needn't be made
            return None
        label = self._label(beginning)
        path = self._path(label)
        if not path.exists():
            return None
        if fault := private_fault(self.folder) or private_fault(path):
            raise OutputError(f"{path} is not yours alone, {fault}")
        from safetensors import safe_open

        file: Any = safe_open(path, framework="pt")  # it stays mapped if another process removes its name
        facts = file.metadata() or {}
        shapes = [tuple(file.get_slice(str(number)).get_shape()) for number in range(len(file.keys()))]
        count, checkpoint = len(beginning.ids), self.tokens.checkpoint
        if facts.get("label") != label or {shape[2] for shape in shapes} != {count}:
            raise ValueError(f"{path} is about something else")
        if sum(map(prod, shapes)) != count * checkpoint.cache_values_per_token:
            raise ValueError(f"{path} lacks a part")
        return path, _read(file, len(shapes), getattr(torch, facts["dtype"]))

    @property
    def _model(self) -> str:
        return _hash(self.origin)[:16]

    def _path(self, label: str) -> Path:
        return self.folder / f"{self._model}-{_hash(label)[:24]}{SUFFIX}"

    def _label(self, beginning: Prompt) -> str:
        """Describes all that a file's numbers follow from, as JSON."""
        pixels = [self.digests.of(medium, beginning.fit) for medium in beginning.media]
        return json.dumps({"origin": self.origin, "ids": digest_of(beginning.ids), "pixels": pixels}, sort_keys=True)


def limit_bytes() -> int:
    """Returns how many bytes of clips may be kept, by VLLAVA_CLIP_CACHE; 0 for none. Errors: UsageError."""
    wish = os.environ.get(SETTING)
    try:
        return size_bytes(wish, least=0) if wish else USUAL_BYTES
    except UsageError as exc:
        raise UsageError(f"{SETTING}: {exc}") from exc


def clips_folder() -> Path:
    """Returns the folder of the files, beside the one of the weight cache."""
    return cache_folder().with_name("clips")


def kept_clips() -> KeptClips | None:
    """Counts the files of all models; None if there are none, or none can be seen. Errors: UsageError."""
    folder, most_bytes = clips_folder(), limit_bytes()
    with suppress(OSError):
        if sizes := [path.stat().st_size for path in _files(folder)]:
            return KeptClips(folder=folder, count=len(sizes), bytes=sum(sizes), most_bytes=most_bytes)
    return None


def _files(folder: Path) -> list[Path]:
    return list(folder.glob(f"[!.]*{SUFFIX}"))


def _read(file: Any, count: int, dtype: torch.dtype) -> States:
    """Yields the keys and values of each layer, mapped from a file of `count` tensors."""
    for number in range(0, count, 2):
        yield file.get_tensor(str(number)).to(dtype), file.get_tensor(str(number + 1)).to(dtype)


def _pieces(states: list[torch.Tensor], dtype: torch.dtype, label: str, cancel: Cancel) -> Iterator[bytes]:
    """Yields the content of a safetensors file, one tensor at a time, as a copy of all would take gigabytes.

    Errors: CancelError; OverflowError for a number that `dtype` can't hold.
    """
    facts = {"label": label, "dtype": str(states[0].dtype).removeprefix("torch.")}
    header: dict[str, Any] = {"__metadata__": facts}
    start = 0
    for number, each in enumerate(states):
        place = [start, start := start + each.numel() * dtype.itemsize]
        header[str(number)] = {"dtype": _NAMES[dtype], "shape": list(each.shape), "data_offsets": place}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for each in states:
        cancel.check()
        held = each.to(dtype).contiguous()
        if held.dtype != each.dtype and not bool(held.isfinite().all()):
            raise OverflowError(f"a number is too large for {_NAMES[dtype]}")
        yield held.cpu().view(torch.uint8).numpy().tobytes()


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
