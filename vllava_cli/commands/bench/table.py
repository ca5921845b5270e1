"""Lines as a table of aligned columns, for a terminal of any width from 60 columns on. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vllava_cli.commands.bench import figures
from vllava_cli.measures import Line, Trial


@dataclass(frozen=True, kw_only=True)
class Column:
    """Its head, and what it says about a line."""

    head: str
    cell: Callable[[Line], str]
    is_left: bool = False


Rows = Sequence[Sequence[str]]


def table(lines: Sequence[Line], width: int | None) -> str:
    """The richest form that has room: spreads go first, then gaps, then the limit's own column; None is any width.

    A line with a remark has its number behind its name; `notes` has the notes.
    """
    numbered = _numbered(lines)

    def name(line: Line) -> str:
        return f"{line.name} [{numbered[line.remark]}]" if line.remark else line.name

    return aligned(_forms(name, lines), width, left=2)


def notes(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """[("[1]", "The snippet has no batches.")], each sentence once."""
    return [(f"[{number}]", note) for note, number in _numbered(lines).items()]


def summary(trials: Sequence[Trial], width: int | None) -> str:
    """A row for each configuration with its main figures; where it failed, the number of its fault."""
    faults = _faults(trials)
    heads = ("precision", "attention", *(head for head, _, _ in _WANTED))
    rows = [heads, *(_summary_row(trial, faults) for trial in trials)]
    narrow = [(_SHORT.get(head, head)) for head in heads]
    return aligned([(rows, 2), ([narrow, *rows[1:]], 2), ([narrow, *rows[1:]], 1)], width, left=2)


def faults(trials: Sequence[Trial]) -> list[tuple[str, str]]:
    """As `notes`, for what made configurations fail."""
    return [(f"[{number}]", fault) for fault, number in _faults(trials).items()]


def aligned(forms: Sequence[tuple[Rows, int]], width: int | None, *, left: int) -> str:
    """The first of (rows, gap between columns) that fits, else the last; the first `left` columns go to the left."""
    drawn = (_drawn(rows, gap, left) for rows, gap in forms)
    text = ""
    for text in drawn:
        if width is None or max(map(len, text.splitlines())) <= width:
            break
    return text


def _forms(name: Callable[[Line], str], lines: Sequence[Line]) -> list[tuple[Rows, int]]:
    what = [Column(head="", cell=name), Column(head="", cell=lambda line: line.unit)]
    short = Column(head="", cell=lambda line: line.unit.replace("tokens", "tok"))
    rich = [
        Column(head="vllava", cell=lambda line: figures.spread(line.ours) if line.ours else figures.ABSENT),
        Column(head="snippet", cell=lambda line: figures.spread(line.snippet) if line.snippet else figures.ABSENT),
    ]
    plain = [
        Column(head="vllava", cell=lambda line: figures.median(line.ours)),
        Column(head="snippet", cell=lambda line: figures.median(line.snippet)),
    ]
    faster = Column(head="times as fast", cell=figures.of_snippet)
    brief = Column(head="faster", cell=figures.of_snippet)
    limit = Column(head="limit", cell=figures.limit)
    reached = Column(head="of limit", cell=figures.of_limit)
    kinds = (
        ([*what, *rich, faster, limit, reached], 2),
        ([*what, *plain, faster, limit, reached], 2),
        ([*what, *plain, brief, limit, reached], 2),
        ([*what, *plain, brief, limit, reached], 1),
        ([*what, *plain, brief, reached], 1),
        ([what[0], short, *plain, brief, reached], 1),
    )
    return [([[column.head for column in columns], *_cells(columns, lines)], gap) for columns, gap in kinds]


def _cells(columns: Sequence[Column], lines: Sequence[Line]) -> Iterator[list[str]]:
    return ([column.cell(line) for column in columns] for line in lines)


def _drawn(rows: Rows, gap: int, left: int) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        (" " * gap).join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "".join(f"{line.rstrip()}\n" for line in lines)


_WANTED: tuple[tuple[str, str, str], ...] = (
    ("decode tokens/s", "decode, batch 1", "tokens/s"),
    ("first token ms", "first token", "ms"),
    ("prefill tokens/s", "prefill", "tokens/s"),
    ("peak MiB", "peak memory", "MiB"),
)
"""(head, name of a line, its unit)"""
_SHORT = {"decode tokens/s": "decode/s", "first token ms": "first ms", "prefill tokens/s": "prefill/s"}


def _summary_row(trial: Trial, faults: dict[str, int]) -> list[str]:
    lines = {line.name: line for line in trial.lines}
    cells = [figures.median(lines[name].ours) if name in lines else figures.ABSENT for _, name, _ in _WANTED]
    mark = f" [{faults[trial.fault]}]" if trial.fault else ""
    return [trial.precision, trial.attention + mark, *cells]


def _numbered(lines: Sequence[Line]) -> dict[str, int]:
    return _first_places(line.remark for line in lines)


def _faults(trials: Sequence[Trial]) -> dict[str, int]:
    return _first_places(trial.fault or "" for trial in trials)


def _first_places(texts: Iterator[str]) -> dict[str, int]:
    """["a", "", "b", "a"] → {"a": 1, "b": 2}."""
    return {text: number for number, text in enumerate(dict.fromkeys(filter(None, texts)), 1)}
