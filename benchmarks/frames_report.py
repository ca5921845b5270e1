"""The figures of frames as a table that a page of the documentation can hold, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from benchmarks.frames_trial import FFMPEG, GUARDED, LOOP, OURS, TORCHCODEC, FolderTrial, FramesTrial
from benchmarks.harness import Target

HEAD = (
    "| file | loop s | vllava s | torchcodec s | ffmpeg s | lower bound s | of loop | of torchcodec | of lower bound "
    "| MiB | torchcodec MiB | frames |\n" + "|---" * 12 + "|"
)


def frames_row(trial: FramesTrial) -> str:
    """The table's row of one file."""
    others = (trial.of(LOOP), trial.of(TORCHCODEC), trial.lower_bound)
    cells = [f"{trial.clip.path.name:20}"]
    cells += [_seconds(trial, name) for name in (LOOP, OURS, TORCHCODEC, FFMPEG)]
    cells += [_number(trial.lower_bound.median_s)]
    cells += [_number(trial.share_of(other) if other.seconds else None) for other in others]
    cells += ["-" if mib is None else f"{mib:.0f}" for mib in (trial.of(OURS).mib, trial.of(TORCHCODEC).mib)]
    cells += [{True: "identical", False: "MISMATCH", None: "-"}[trial.is_identical]]
    return "| " + " | ".join(cells) + " |"


def frames_notes(trial: FramesTrial) -> Iterator[str]:
    """Sentences that belong to a file: the guard's seconds, and why a figure is missing."""
    if guarded_s := trial.of(GUARDED).median_s:
        yield f"{trial.clip.path.name} through the bounded process: {_number(guarded_s)} s."
    for name, result in trial.results.items():
        if result.fault:
            yield f"{trial.clip.path.name}: no figure of {name}: {result.fault}"


def folder_sentence(folder: FolderTrial) -> str:
    return (
        f"{folder.clips} short clips: {folder.plain_s:.2f} s in process, {folder.guarded_s:.2f} s in the bounded one, "
        f"which takes {folder.start_s:.2f} s to start."
    )


def frames_json(trials: Sequence[FramesTrial], folder: FolderTrial | None, found: Sequence[Target]) -> str:
    """Everything that was measured, with the targets."""
    files = [
        {
            "file": trial.clip.path.name,
            "is_identical": trial.is_identical,
            "lower_bound_s": trial.lower_bound.median_s,
            "decoders": {name: asdict(result) for name, result in trial.results.items()},
        }
        for trial in trials
    ]
    facts = {"files": files, "folder": asdict(folder) if folder else None, "targets": [asdict(each) for each in found]}
    return json.dumps(facts, indent=1)


def _seconds(trial: FramesTrial, name: str) -> str:
    result = trial.of(name)
    is_other = name != LOOP and result.times_s and trial.truth.times_s and not trial.has_times(result)
    return _number(result.median_s) + (" (other frames)" if is_other else "")


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}" if number < 10 else f"{number:.1f}"
