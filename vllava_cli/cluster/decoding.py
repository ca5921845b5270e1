"""The CPU stage: a row of the manifest → the clip's frames. It never raises: what is wrong with a clip is its fault."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vllava_cli.cluster.manifest import unit_of
from vllava_cli.cluster.setup import Setup
from vllava_cli.commands.batch.line import changed
from vllava_cli.commands.batch.rows import Fault
from vllava_cli.commands.batch.units import Unit
from vllava_cli.errors import MediaError
from vllava_cli.fingerprint import Fingerprint, fingerprint
from vllava_cli.jsonl import shown
from vllava_cli.media.guard import Guard
from vllava_cli.media.pick import spread
from vllava_cli.media.remote.allow import allowed, scheme_of
from vllava_cli.media.remote.cache import Cache
from vllava_cli.media.remote.entry import read_entry
from vllava_cli.media.remote.fetch import Fetcher
from vllava_cli.media.remote.folder import default_folder
from vllava_cli.media.remote.urls import without_secrets
from vllava_cli.nouns import DecodeLimits, Frames

MOST_BYTES = 20 << 30
"""Of the clips that URLs name, on each machine."""
CLIP = "clip"
"""The one column between the stages."""


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A clip on its way to an engine; exactly one of `frames` and `fault` is there."""

    unit: Unit
    frames: Frames | None = None
    fault: Fault | None = None
    is_early: bool = False
    """Of a fault: the header showed it, which is read before any model is loaded."""
    seconds: float = 0.0
    fingerprint: Fingerprint | None = None
    """Of a URL, and with --hash of a file."""


def decode(row: Mapping[str, Any], setup: Setup) -> dict[str, bytes]:
    """A row of the manifest → a row with a pickled `Decoded`."""
    with suppress(OSError):
        os.chdir(setup.folder)
    unit = unit_of(row)
    return {CLIP: pickle.dumps(decoded(unit, setup), protocol=pickle.HIGHEST_PROTOCOL)}


def decoded(unit: Unit, setup: Setup) -> Decoded:
    """Fetched where it is a URL, then read by the bounded process that this process keeps."""
    started_s = time.perf_counter()
    try:
        with _local(unit, setup) as path:
            found = _read(unit, path, setup)
            if found.frames:
                found = replace(found, fingerprint=_fingerprint(unit, path, setup))
    except Exception as exc:
        found = Decoded(unit=unit, fault=Fault.of_clip(exc, unit.path), is_early=True)
    return replace(found, seconds=time.perf_counter() - started_s)


def _read(unit: Unit, path: Path, setup: Setup) -> Decoded:
    """The header first, as it is read on one machine before any model is loaded."""
    is_early, name = True, unit.jobs[0].path
    try:
        guard = _guard(setup.batch.limits)
        guard.header(path)
        is_early = False
        framing = setup.batch.framing
        frames = _fitted(spread(guard.sample(path, framing), framing.fit), setup)
        fault = changed(unit)
    except Exception as exc:
        fault = Fault.of_clip(exc, path)
        if path != unit.path:  # what is told of a fetched file is told of its URL
            fault = replace(fault, message=fault.message.replace(shown(path), without_secrets(name)))
    if fault:
        return Decoded(unit=unit, fault=fault, is_early=is_early)
    return Decoded(unit=unit, frames=frames)


def _fingerprint(unit: Unit, path: Path, setup: Setup) -> Fingerprint | None:
    """None for a file that nobody wants hashed, or that can't be read any more."""
    name = unit.jobs[0].path
    if scheme_of(name) is None:
        with suppress(MediaError):
            return fingerprint(path) if setup.batch.is_hashing else None
        return None
    folder = _fetcher(setup.allowed).cache.folder
    entry = read_entry(folder, name)
    is_its = entry is not None and entry.path(folder, name) == path
    return Fingerprint(bytes=entry.bytes, sha256=entry.sha256) if entry and is_its else None


def _fitted(frames: Frames, setup: Setup) -> Frames:
    """What goes to another machine is no larger than the model takes it."""
    from vllava_cli.media.pixels import fitted

    return fitted(frames, setup.recipe, fit=setup.batch.framing.fit)


@contextmanager
def _local(unit: Unit, setup: Setup) -> Iterator[Path]:
    name = unit.jobs[0].path
    if scheme_of(name) is None:
        yield unit.path
        return
    with _fetcher(setup.allowed).fetched(name) as path:
        yield path


@cache
def _guard(limits: DecodeLimits) -> Guard:
    """One for each process, which Ray uses for many clips: a new one would cost more than most clips take."""
    return Guard(limits)


@cache
def _fetcher(words: tuple[str, ...]) -> Fetcher:
    return Fetcher(allowed(words), Cache(default_folder(), MOST_BYTES))
