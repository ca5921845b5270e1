"""What was measured, as a table that a page of the documentation can hold, as bars, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

from benchmarks.race import Folder, Row

HEAD = (
    "| file | loop s | vllava s | torchcodec s | ffmpeg s | floor s | of loop | of torchcodec | of floor | MiB "
    "| torchcodec MiB | frames |\n" + "|---" * 12 + "|"
)
_MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One promise, what was found, and whether it is kept."""

    text: str
    is_met: bool

    def __str__(self) -> str:
        return f"- {self.text}: {'met' if self.is_met else 'MISSED'}"


def line(row: Row) -> str:
    """The row of one file in the table."""
    cells = [f"{row.footage.name:20}"]
    cells += [_seconds(row, way) for way in ("reference", "ours", "torchcodec", "ffmpeg")]
    cells += [_number(row.floor_s)]
    cells += [_number(row.share_of(way)) for way in ("reference", "torchcodec", "floor")]
    cells += [_whole(row.ways[way].mib) for way in ("ours", "torchcodec")]
    cells += [{True: "identical", False: "MISMATCH", None: "-"}[row.is_identical]]
    return "| " + " | ".join(cells) + " |"


def folder_line(folder: Folder) -> str:
    """The figures of many short clips, a sentence."""
    return (
        f"{folder.clips} short clips: {folder.plain_s:.2f} s in process, {folder.guarded_s:.2f} s in the bounded one, "
        f"which takes {folder.start_s:.2f} s to start."
    )


def bars(rows: Sequence[Row], folder: Folder | None) -> Iterator[Bar]:
    """Each bar that the measured files say something about."""
    known = [row for row in rows if row.is_identical is not None]
    same = sum(row.is_identical is True for row in known)
    if known:
        yield Bar(text=f"identical frames: {same} of {len(known)} files", is_met=same == len(known))
    for what, way, limit, is_meant in _LIMITS:
        yield from _share_bar([row for row in rows if is_meant(row)], what, way, limit)
    yield from _memory_bar(rows)
    yield from _length_bar(rows)
    if folder:
        text = f"at most 10% for safety on {folder.clips} short clips: {100 * folder.cost:.1f}%"
        yield Bar(text=text, is_met=folder.cost <= 0.1)


def as_json(rows: Sequence[Row], folder: Folder | None, found: Sequence[Bar]) -> str:
    """Everything that was measured, with the bars."""
    files = [
        {"file": row.footage.name, "is_identical": row.is_identical, "floor_s": row.floor_s}
        | {"ways": {way: asdict(measured) for way, measured in row.ways.items()}}
        for row in rows
    ]
    whole = {"files": files, "folder": asdict(folder) if folder else None, "bars": [asdict(bar) for bar in found]}
    return json.dumps(whole, indent=1)


def _is_plain(length: str) -> Callable[[Row], bool]:
    """H.264 and HEVC of this length in MP4."""
    return lambda row: row.footage.codec in ("libx264", "libx265") and row.footage.name.endswith(f"-{length}.mp4")


_LIMITS: tuple[tuple[str, str, float, Callable[[Row], bool]], ...] = (
    ("of the loop, h264 and hevc of 10 minutes", "reference", 1 / 20, _is_plain("10min")),
    ("of the loop, h264 and hevc of 60 minutes", "reference", 1 / 100, _is_plain("60min")),
    ("of the loop, short clips", "reference", 1.1, lambda row: not row.footage.is_long),
    ("of torchcodec's exact mode, long files", "torchcodec", 0.8, lambda row: row.footage.is_long),
    ("of torchcodec's exact mode, short clips", "torchcodec", 0.8, lambda row: not row.footage.is_long),
    ("of the floor, long files", "floor", 1.3, lambda row: row.footage.is_long),
    ("of the floor, short clips", "floor", 1.3, lambda row: not row.footage.is_long),
)


def _share_bar(rows: Sequence[Row], what: str, way: str, limit: float) -> Iterator[Bar]:
    shares = {row.footage.name: share for row in rows if (share := row.share_of(way)) is not None}
    if shares:
        worst = max(shares, key=lambda name: shares[name])
        over = ", ".join(f"{name} {share:.3f}" for name, share in shares.items() if share > limit)
        text = f"at most {limit:.2f} {what}: {over or f'{shares[worst]:.3f} at most ({worst})'}"
        yield Bar(text=text, is_met=not over)


def _memory_bar(rows: Sequence[Row]) -> Iterator[Bar]:
    peaks = [row.ours.mib * _MIB / 1e6 for row in rows if row.footage.height == 1080 and row.ours.mib]
    if peaks:
        yield Bar(text=f"under 300 MB for 1080p: {max(peaks):.0f} MB at most", is_met=max(peaks) < 300)


def _length_bar(rows: Sequence[Row]) -> Iterator[Bar]:
    named = {row.footage.name: row.ours.seconds for row in rows}
    hours, minutes = named.get("h264-1080p-2h.mp4"), named.get("h264-1080p-10min.mp4")
    if hours and minutes:
        yield Bar(text=f"2 h at most 1.5 of 10 min: {hours / minutes:.2f}", is_met=hours / minutes <= 1.5)


def _seconds(row: Row, way: str) -> str:
    is_other = way != "reference" and row.ways[way].times_s and row.truth.times_s and not row.has_times_of(way)
    return _number(row.ways[way].seconds) + (" (other frames)" if is_other else "")


def _number(number: float | None) -> str:
    return "-" if number is None else f"{number:.3f}" if number < 10 else f"{number:.1f}"


def _whole(number: float | None) -> str:
    return "-" if number is None else f"{number:.0f}"
