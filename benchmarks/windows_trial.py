"""The parts of bench-time. Each yields the lines of its table, and the targets among them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.harness import Finished, Target, run_module
from benchmarks.windows_worker import QUESTION, TOKENS
from training.reel import Shot, Sought, phrased, shots, write
from vllava_cli.hardware import cpu_cores

EVERY_S, SCENE_S = 30, 10
CLI = "vllava_cli"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Where the reels are, how long they are, and the model that answers about windows."""

    folder: Path
    minutes: float
    model: str

    @cached_property
    def shots(self) -> list[Shot]:
        return shots(Random(20), round(self.minutes * 60 / SCENE_S), SCENE_S)

    def reel(self, times: int = 1) -> Path:
        """Returns the reel, shown so many times in a row; draws it where it is missing."""
        path = self.folder / f"reel-{self.minutes * times:g}min.mp4"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part.mp4")
            write(part, self.shots * times)
            part.replace(path)
        return path

    def work(self, part: str, path: Path) -> dict[str, Any]:
        decoders = str(min(8, cpu_cores()))
        done = run_module("benchmarks.windows_worker", part, str(path), str(EVERY_S), decoders, self.model)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def windows(trial: Trial) -> Iterator[str | Target]:
    """One process for all windows, beside a process for each, and beside the model's work alone."""
    reel, every = trial.reel(), round(trial.minutes * 60 / EVERY_S)
    asked = ("--model", trial.model, "--max-new-tokens", str(TOKENS), "--quiet", "--no-clip-cache")
    once = run_module(CLI, "batch", *asked, "--every", str(EVERY_S), "-Q", QUESTION, str(reel))
    rows = [json.loads(line) for line in once.stdout.splitlines()]
    apart_s, same = 0.0, 0
    for row in sorted(rows, key=lambda row: float(row["start_s"])):
        part = ("--start", str(row["start_s"]), "--end", str(row["end_s"]))
        alone = run_module(CLI, "ask", *asked, *part, str(reel), QUESTION)
        apart_s += alone.times.wall_s
        same += alone.stdout.strip() == row["answer"].strip()
    yield f"{len(rows)} windows in one process: {once.times}; {len(rows)} ask processes: {apart_s:.1f} s"
    yield Target(text=f"the same answers: {same} of {len(rows)}", is_met=same == len(rows) == every)
    share = once.times.wall_s / apart_s
    yield Target(text=f"one process takes {share:.3f} of the processes (at most 0.1)", is_met=share <= 0.1)


def overlap(trial: Trial) -> Iterator[str | Target]:
    """The answers with frames that are read meanwhile, beside the answers alone."""
    alone, both = trial.work("model", trial.reel()), trial.work("both", trial.reel())
    yield (
        f"the model alone {alone['answering_s']:.1f} s, decoding alone {alone['decode_s']:.1f} s, both at once "
        f"{both['answering_s']:.1f} s; peak {both['peak_mib']} MiB"
    )
    ratio = both["answering_s"] / alone["answering_s"]
    yield Target(text=f"decoding hides behind the model: {ratio:.2f} (at most 1.15)", is_met=ratio <= 1.15)


def decoding(trial: Trial) -> Iterator[str | Target]:
    """A film of twice the length, beside the decoding of its needed pieces alone."""
    film = trial.reel(2)
    needed = trial.work("decode", film)["decode_s"]
    words = ("--model", "demo", "--max-new-tokens", str(TOKENS), "--quiet", "--every", str(EVERY_S))
    whole = run_module(CLI, "batch", *words, "-Q", QUESTION, str(film))
    yield f"two hours: {whole.times}; its needed pieces alone {needed:.1f} s"
    share = whole.times.wall_s / needed
    yield Target(text=f"{share:.2f} times the decoding (below 3)", is_met=share < 3)


def search(trial: Trial) -> Iterator[str | Target]:
    """200 queries about the reel: right hits, missed ones, time, and the same search again."""
    reel, queries = trial.reel(), phrased()
    words = [word for query in queries for word in ("-e", query)]
    with TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        asked = ("--model", "demo", "--every", str(SCENE_S), "--json", str(reel))
        first, again = (run_module(CLI, "find", *words, *asked) for _ in range(2))
    right, wrong, missed = _counted(first, queries, trial.shots)
    precision, recall = right / max(1, right + wrong), right / max(1, right + missed)
    hours = trial.minutes / 60
    yield f"{len(queries)} queries, {len(trial.shots)} windows: {first.times}; again {again.times}"
    yield f"seconds per hour of footage: {first.times.wall_s / hours:.1f}, again {again.times.wall_s / hours:.1f}"
    yield Target(text=f"precision {precision:.4f} (at least 0.95)", is_met=precision >= 0.95)
    yield Target(text=f"recall {recall:.4f} (at least 0.95)", is_met=recall >= 0.95)
    yield Target(text="the same lines again", is_met=first.stdout == again.stdout)


def _counted(done: Finished, queries: dict[str, Sought], its: list[Shot]) -> tuple[int, int, int]:
    """Counts right hits, wrong ones, and those that are missing."""
    hits = {(row["query"], row["start_s"]) for row in map(json.loads, done.stdout.splitlines())}
    true = {(query, shot.start_s) for query, each in queries.items() for shot in its if each.is_in(shot.scene)}
    return len(hits & true), len(hits - true), len(true - hits)


PARTS: dict[str, Callable[[Trial], Iterator[str | Target]]] = {
    "windows": windows,
    "overlap": overlap,
    "decoding": decoding,
    "search": search,
}
