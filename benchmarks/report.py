"""What was measured, as a table that a page of the documentation can hold, as bars, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

from benchmarks.race import WAYS, Folder, Row
from vllava_cli.measures import Bar
from vllava_cli.media.measuring.promises import PROMISES, Promise, is_1080p, memory_bar
from vllava_cli.media.measuring.race import FFMPEG, LOOP, OURS, TORCHCODEC, Race

HEAD = (
    "| file | loop s | vllava s | torchcodec s | ffmpeg s | floor s | of loop | of torchcodec | of floor | MiB "
    "| torchcodec MiB | frames |\n" + "|---" * 12 + "|"
)


def shown(bar: Bar) -> str:
    """A line of its own: "- identical frames: 21 of 21 files: met"."""
    return f"- {bar.text}: {'met' if bar.is_met else 'MISSED'}"


def line(row: Row) -> str:
    """The row of one file in the table."""
    race = row.race
    rivals = (race.loop, race.of(TORCHCODEC), race.floor)
    cells = [f"{row.footage.name:20}"]
    cells += [_seconds(race, way) for way in (LOOP, OURS, TORCHCODEC, FFMPEG)]
    cells += [_number(race.floor.median_s)]
    cells += [_number(race.share_of(rival)) for rival in rivals]
    cells += [_whole(race.of(way).mib) for way in (OURS, TORCHCODEC)]
    cells += [{True: "identical", False: "MISMATCH", None: "-"}[race.is_identical]]
    return "| " + " | ".join(cells) + " |"


def folder_line(folder: Folder) -> str:
    """The figures of many short clips, a sentence."""
    return (
        f"{folder.clips} short clips: {folder.plain_s:.2f} s in process, {folder.guarded_s:.2f} s in the bounded one, "
        f"which takes {folder.start_s:.2f} s to start."
    )


def bars(rows: Sequence[Row], folder: Folder | None) -> Iterator[Bar]:
    """Each bar that the measured files say something about."""
    known = [row for row in rows if row.race.is_identical is not None]
    same = sum(row.race.is_identical is True for row in known)
    if known:
        yield Bar(text=f"identical frames: {same} of {len(known)} files", is_met=same == len(known))
    for promise in PROMISES:
        yield from _share_bar([row for row in rows if promise.is_about(row.footage.clip)], promise)
    yield from _memory_bar(rows)
    yield from _length_bar(rows)
    if folder:
        text = f"at most 10% for safety on {folder.clips} short clips: {100 * folder.cost:.1f}%"
        yield Bar(text=text, is_met=folder.cost <= 0.1)


def as_json(rows: Sequence[Row], folder: Folder | None, found: Sequence[Bar]) -> str:
    """Everything that was measured, with the bars."""
    files = [
        {"file": row.footage.name, "is_identical": row.race.is_identical, "floor_s": row.race.floor.median_s}
        | {"ways": {way: asdict(row.race.of(way)) | {"seconds": row.race.of(way).median_s} for way in WAYS}}
        for row in rows
    ]
    whole = {"files": files, "folder": asdict(folder) if folder else None, "bars": [asdict(bar) for bar in found]}
    return json.dumps(whole, indent=1)


def _share_bar(rows: Sequence[Row], promise: Promise) -> Iterator[Bar]:
    known = {row.footage.name: row.race.share_of(promise.rival(row.race)) for row in rows}
    shares = {name: share for name, share in known.items() if share is not None}
    if shares:
        worst = max(shares, key=lambda name: shares[name])
        over = ", ".join(f"{name} {share:.3f}" for name, share in shares.items() if share > promise.most)
        yield Bar(text=f"{promise.head}: {over or f'{shares[worst]:.3f} at most ({worst})'}", is_met=not over)


def _memory_bar(rows: Sequence[Row]) -> Iterator[Bar]:
    peaks = [row.race.ours.mib for row in rows if is_1080p(row.footage.clip) and row.race.ours.mib]
    if peaks:
        yield memory_bar(max(peaks))


def _length_bar(rows: Sequence[Row]) -> Iterator[Bar]:
    named = {row.footage.name: row.race.ours.median_s for row in rows}
    hours, minutes = named.get("h264-1080p-2h.mp4"), named.get("h264-1080p-10min.mp4")
    if hours and minutes:
        yield Bar(text=f"2 h at most 1.5 of 10 min: {hours / minutes:.2f}", is_met=hours / minutes <= 1.5)


def _seconds(race: Race, way: str) -> str:
    is_other = way != LOOP and race.of(way).times_s and race.truth.times_s and not race.has_times_of(way)
    return _number(race.of(way).median_s) + (" (other frames)" if is_other else "")


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}" if number < 10 else f"{number:.1f}"


def _whole(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"
