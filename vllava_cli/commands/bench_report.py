"""The record of a run of bench, as a JSON object and as text, and the changes since an earlier run.

A saved file isn't trusted. `compare` matches configurations by the model, --precision and what was loaded, and figures
by their names and units. Texts are numbers with three significant digits, aligned tables, and sentences below them.
"""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vllava_cli import __version__
from vllava_cli.commands.provenance import version_of
from vllava_cli.engine.measuring.figures import Agreement, BenchTask, BenchTrial, Figure, Measured
from vllava_cli.errors import OutputError
from vllava_cli.machine import Hardware, Speed
from vllava_cli.nouns import Clip, counted
from vllava_cli.storage.fields import Fields
from vllava_cli.storage.files import as_output_error, opened
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, refuse_damaged, refuse_foreign, row_of

VERSION = 1
PACKAGES = ("torch", "transformers", "av", "bitsandbytes")
CLIP_FIELDS = ("path", "width", "height", "frame_count", "duration_s", "codec")
"""The facts of a clip that are saved."""
HEADS = ("", "", "vllava", "snippet", "times as fast", "limit", "of limit")
SHORT_HEADS = ("", "", "vllava", "snippet", "faster", "limit")
SUMMARY = ("precision", "attention", "decode tokens/s", "first token ms", "prefill tokens/s", "peak MiB")
SHORT_SUMMARY = ("precision", "attention", "decode/s", "first ms", "prefill/s", "peak MiB")
SUMMARISED = ("decode, batch 1", "first token", "prefill", "peak memory")


@dataclass(frozen=True, kw_only=True)
class BenchMachine:
    """The machine of a run, the versions of its libraries (None if one isn't installed) and the date in UTC."""

    cpu: str
    cores: int
    ram_bytes: int
    gpus: tuple[str, ...]
    versions: dict[str, str | None]
    measured_at: str

    @classmethod
    def of(cls, hardware: Hardware) -> BenchMachine:
        ours = {"vllava": __version__, "python": platform.python_version()}
        return cls(
            cpu=hardware.cpu_name,
            cores=hardware.cpu_cores,
            ram_bytes=hardware.ram_total_bytes,
            gpus=tuple(gpu.name for gpu in hardware.accelerators),
            versions={**ours, **{name: version_of(name) for name in PACKAGES}},
            measured_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )


@dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """A run of bench; `trials` lacks configurations that weren't begun before Ctrl-C."""

    machine: BenchMachine
    model: str
    """The name that the user gave, or "random 7b" for random weights."""
    revision: str | None
    clip: Clip
    task: BenchTask
    trials: tuple[BenchTrial, ...] = ()


def object_of(record: BenchRecord) -> dict[str, Any]:
    """Makes the JSON object of a record: figures in the unit of their line, RAM in bytes, speeds per second."""
    found = asdict(record)
    for trial, values in zip(record.trials, found["trials"], strict=True):
        for figure, line in zip(trial.lines, values["lines"], strict=True):
            for side, measured in (("ours", figure.ours), ("snippet", figure.snippet)):
                if measured:
                    bounds = {"least": min(measured.values), "most": max(measured.values)}
                    line[side] |= {"median": measured.median} | bounds
            line |= {"of_snippet": figure.of_snippet, "of_limit": figure.of_limit, "note": figure.remark}
        if trial.agreement:
            values["agreement"]["is_met"] = trial.agreement.is_met
    found["clip"] = {name: found["clip"][name] for name in CLIP_FIELDS}
    found["clip"]["path"] = os.fspath(record.clip.path.absolute())
    return {"type": "bench", "version": VERSION, **found.pop("task"), **found, "frames": None}


def read_record(path: Path) -> BenchRecord:
    """Reads the record that --save wrote. Errors: OutputError for any other file."""
    with as_output_error(path, "read"), os.fdopen(opened(path, os.O_RDONLY), "rb") as file:
        row = row_of(file.read(MAX_ROW_BYTES + 1))
    if row is None or row.get("type") != "bench":
        refuse_foreign(path)
    if isinstance(clip := row.get("clip"), dict):
        row |= {"clip": clip | {"kind": "video"}}
    saved = Fields(row, "the object", error=OutputError)
    try:
        if (version := saved.whole("version", least=1)) > VERSION:
            raise OutputError(f"its version is {version}, but this vllava reads up to {VERSION}: update vllava")
        return saved.build(BenchRecord, task=saved.build(BenchTask))
    except OutputError as exc:
        refuse_damaged(path, str(exc))


def compare(then: BenchRecord, now: BenchRecord) -> dict[str, Any]:
    """Returns the changes since the run `then` as --json prints them, and other differences that may explain them."""
    earlier = {(then.model, old.precision, old.name): old for old in reversed(then.trials) if old.plan}
    pairs = [(earlier.get((now.model, trial.precision, trial.name)), trial) for trial in now.trials]
    before, after = _circumstances(then), _circumstances(now)
    changed = [what for what in before if after.get(what, before[what]) != before[what]]
    return {
        "measured_at": then.machine.measured_at,
        "differences": [f"{what} was {before[what]}, is {after[what]}" for what in changed],
        "trials": [{"configuration": new.name, "lines": list(_changes(old, new))} for old, new in pairs if old],
        "unmatched": [trial.name for old, trial in pairs if not old],
    }


def _changes(then: BenchTrial, now: BenchTrial) -> Iterator[dict[str, Any]]:
    """Yields the change of each figure that both runs have: its medians, factors (1.2: 1.2 times as good), verdicts.

    The snippet itself doesn't change: if it is better or worse as well, the machine was faster or slower.
    """
    earlier = {(figure.name, figure.unit): figure for figure in then.lines}
    for figure in now.lines:
        old = earlier.get((figure.name, figure.unit))
        if old and old.ours and figure.ours:
            found = {"name": figure.name, "unit": figure.unit, "then": old.ours.median, "now": figure.ours.median}
            found["factor"], found["verdict"] = _judged(figure, old.ours, figure.ours)
            found["snippet_factor"], found["snippet_verdict"] = _judged(figure, old.snippet, figure.snippet)
            yield found


def _judged(figure: Figure, then: Measured | None, now: Measured | None) -> tuple[float | None, str | None]:
    """Returns how many times as good a figure is now, and the verdict: better, worse, same or unsure.

    same: the spreads overlap, so no change is certain · unsure: one of them was measured once, so it has no spread.
    """
    if not (then and now):
        return None, None
    before = figure.goodness(then.median)
    factor = figure.goodness(now.median) / before if before and now.median else None
    if factor is None or (min(then.values) <= max(now.values) and min(now.values) <= max(then.values)):
        return factor, "same"
    if figure.unit != "MiB" and 1 in (len(then.values), len(now.values)):
        return factor, "unsure"
    return factor, "better" if factor > 1 else "worse"


def _circumstances(record: BenchRecord) -> dict[str, str]:
    """Returns all that figures depend on: {"the CPU": "AMD EPYC (2 cores)", …, "torch": "2.13.0"}."""
    machine, clip, task = record.machine, record.clip, record.task
    return {
        "the CPU": f"{machine.cpu} ({counted(machine.cores, 'core')})",
        "the RAM": f"{machine.ram_bytes / 2**30:.0f} GiB",
        "the GPU": ", ".join(machine.gpus) or "none",
        "the model": record.model,
        "the clip": f"{clip.path.name} ({clip.width}x{clip.height}, {counted(clip.frame_count, 'frame')})",
        "the question": repr(task.question),
        "--max-new-tokens": str(task.new_tokens),
        "--batch-size": ",".join(map(str, task.batches)),
        "the revision": record.revision or "none",
        **{name: release or "not installed" for name, release in machine.versions.items()},
    }


def number(value: float | None, like: float | None = None) -> str:
    """Writes at least three digits: 12345.6 → "12,346", 41.23 → "41.2", 0.01234 → "0.0123", None → "-".

    With `like`, the number has as many decimals as `like` would get.
    """
    if value is None:
        return "-"
    size, decimals = abs(value if like is None else like), 0
    while size and size < 99.5 and decimals < 6:
        size, decimals = size * 10, decimals + 1
    return f"{value:,.{decimals}f}"


def times(factor: float | None, unit: str = "x") -> str:
    """Writes a factor: 4.72 → "4.7x", 0.951 → "0.95x", 12.3 → "12x", None → "-"."""
    return "-" if factor is None else f"{factor:,.{0 if factor >= 9.95 else 1 if factor >= 0.995 else 2}f}{unit}"


def share(part: float | None) -> str:
    """Writes a share: 0.714 → "71%", 0.0042 → "0.42%", None → "-"."""
    return times(None if part is None else 100 * part, "%")


def speed(found: Speed) -> str:
    """Writes "312 TFLOP/s in a large product, 1,550 GB/s in a large copy"."""
    operations, data = (
        f"{number(value / 1e12)} T" if value >= 1e13 else f"{number(value / 1e9)} G"
        for value in (found.operations, found.bytes)
    )
    return f"{operations}FLOP/s in a large product, {data}B/s in a large copy"


def agreement(found: Agreement) -> str:
    """Writes the result of --check in a sentence.

    "64 of 64 greedy tokens are those of generate (all must be); logits differ by 1.2e-05 at most, …: met."
    """
    demand = "all must be" if found.must_be_equal else "in this dtype they may differ"
    tokens = f"{found.equal_tokens} of {found.tokens} greedy tokens are those of generate ({demand})"
    difference = math.inf if found.largest_difference is None else found.largest_difference
    verdict = f", and {found.tolerance:.2g} is allowed: {'met' if found.is_met else 'not met'}"
    return f"{tokens}; logits differ by {difference:.2g} at most{verdict if found.must_be_equal else ''}."


def figures_table(figures: Sequence[Figure], width: int | None) -> str:
    """Writes the table of figures. If the width is too small, spreads are left out, then the limit's own column.

    A width of None leaves nothing out. If a figure has a remark, its number (`numbered`) follows the figure's name.
    """
    marks = {remark: mark for mark, remark in numbered(figure.remark for figure in figures)}

    def cells(figure: Figure, shown: Callable[[Measured | None], str]) -> list[str]:
        name = " ".join(filter(None, [figure.name, marks.get(figure.remark)]))
        last = (times(figure.of_snippet), number(figure.limit), share(figure.of_limit))
        return [name, figure.unit, shown(figure.ours), shown(figure.snippet), *last]

    rich, plain = ([cells(figure, shown) for figure in figures] for shown in (_spread, _median))
    short = [[row[0].replace(" [", "["), *row[1:5], row[6]] for row in plain]
    return _aligned([([HEADS, *rich], 2), ([HEADS, *plain], 2), ([SHORT_HEADS, *short], 1)], width)


def numbered(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Numbers remarks, each once and without empty ones: ["a", "", "b", "a"] → [("[1]", "a"), ("[2]", "b")]."""
    return [(f"[{place}]", text) for place, text in enumerate(dict.fromkeys(filter(None, texts)), 1)]


def summary(trials: Sequence[BenchTrial], width: int | None) -> str:
    """Writes a line for each configuration with its main figures; a failed one shows the number of its error note."""
    marks, rows = {fault: mark for mark, fault in numbered(trial.fault or "" for trial in trials)}, []
    for trial in trials:
        found = {figure.name: figure.ours for figure in trial.lines}
        attention = " ".join(filter(None, [trial.attention, marks.get(trial.fault or "")]))
        rows.append([trial.precision, attention, *(_median(found.get(name)) for name in SUMMARISED)])
    return _aligned([([SUMMARY, *rows], 2), ([SHORT_SUMMARY, *rows], 1)], width)


def changes_table(lines: Sequence[Mapping[str, Any]], width: int | None) -> str:
    """Writes a table of changes; if the width allows, also the snippet's, which show changes of the machine itself."""
    rows = [["", "", "then", "now", "change", "the snippet's"]]
    for each in lines:
        medians, is_memory = [number(each["then"]), number(each["now"])], each["unit"] == "MiB"
        words = (change(each[f"{of}factor"], each[f"{of}verdict"], is_memory=is_memory) for of in ("", "snippet_"))
        rows.append([each["name"], each["unit"], *medians, *words])
    brief = [[row[0], "", *row[2:5]] for row in rows]
    return _aligned([(rows, 2), ([row[:5] for row in rows], 1), (brief, 1)], width)


def change(factor: float | None, verdict: str | None, *, is_memory: bool) -> str:
    """Writes a change: "1.2x faster", "4.2% slower", "1.3x more", "within the spread"."""
    if verdict is None:
        return "-"
    if verdict == "same" or factor is None:
        return "within the spread"
    words, larger = ("less", "more") if is_memory else ("faster", "slower"), max(factor, 1 / factor)
    text = f"{times(larger) if larger >= 1.1 else share(larger - 1)} {words[factor < 1]}"
    return f"{text} (once)" if verdict == "unsure" else text


def _aligned(forms: Sequence[tuple[Sequence[Sequence[str]], int]], width: int | None) -> str:
    """Aligns the first form that fits, else the last; a form is (rows, gap). Columns 1 and 2 are left-aligned."""
    text = ""
    for rows, gap in forms:
        sizes = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ([*map(str.ljust, row[:2], sizes), *map(str.rjust, row[2:], sizes[2:])] for row in rows)
        text = "".join(f"{(' ' * gap).join(line).rstrip()}\n" for line in lines)
        if width is None or max(map(len, text.splitlines())) <= width:
            break
    return text


def _median(measured: Measured | None) -> str:
    return number(measured.median if measured else None)


def _spread(measured: Measured | None) -> str:
    """Writes "41.2 (40.8-42.0)", with the median's decimals; "41.2" alone if it was measured once."""
    if measured is None or len(measured.values) == 1:
        return _median(measured)
    least, most = (number(bound(measured.values), like=measured.median) for bound in (min, max))
    return f"{number(measured.median)} ({least}-{most})"
