"""`vllava score`: accuracy and other figures of the rows of a batch, with intervals, by group. No model takes part."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vllava_cli.errors import UsageError
from vllava_cli.evaluate.calibration import calibration_of, check_plot, write_plot
from vllava_cli.evaluate.comparison import Side, changed_rows, compared
from vllava_cli.evaluate.gold import GoldForm
from vllava_cli.evaluate.intervals import RESAMPLES
from vllava_cli.evaluate.records import Record, beside_clips, read_records
from vllava_cli.evaluate.row_files import can_read_again
from vllava_cli.evaluate.score_figures import Figures, figures_of
from vllava_cli.evaluate.score_table import chapters_of
from vllava_cli.evaluate.tally import Columns, Tally
from vllava_cli.nouns import counted
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import json_of

_MOST_NAMES = 40


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """The request of one `vllava score`."""

    rows: tuple[Path, ...]
    gold: Path | None = None
    gold_form: GoldForm = "auto"
    by: tuple[str, ...] = ()
    """The names of the fields whose values divide the rows into groups."""
    against: Path | None = None
    """The rows of another run."""
    is_json: bool = False
    plot: Path | None = None
    is_overwriting: bool = False


def run(request: ScoreRequest, screen: Screen) -> int:
    """Returns the exit code, which is 1 if a right answer names none of its choices. Errors: any VllavaError."""
    if request.plot:
        check_plot(request.plot, is_overwriting=request.is_overwriting)
    if request.against and (once := [each for each in (*request.rows, request.against) if not can_read_again(each)]):
        raise UsageError(f"--against reads rows twice, and {once[0]} can be read only once. Name files.")
    tally, side = Tally(request.by), Side() if request.against else None
    with screen.waiting("Reading the rows"):
        fields = _filled(tally, side, _records(request, request.rows, screen))
        if not fields:
            raise UsageError("There are no rows. Name what vllava batch wrote.")
        for grouping in tally.by.values():
            if grouping.is_missing and grouping.field.partition(".")[0] not in fields:
                names = ", ".join(fields[:_MOST_NAMES])
                raise UsageError(f"--by {grouping.field!r} is a field of no row: they have {names}.")
    with screen.waiting("Computing intervals"):
        found = _scored(request, tally)
    if side and request.against:
        found["against"] = _against(request, request.against, side, screen)
    if request.plot:
        if not found["calibration"]:
            raise UsageError("--plot needs rows with probabilities and right answers: run batch with choices.")
        write_plot(request.plot, found["calibration"])
    if request.is_json:
        screen.answer(json_of(found) + "\n")
    else:
        for title, rows in chapters_of(found):
            screen.answer(f"{title}\n" if title else "")
            screen.facts([(f"  {name}" if title else name, text) for name, text in rows], is_answer=True)
    _tell_of_runs(tally, screen)
    if found["without_gold"] == found["rows"]:
        screen.notice("vllava: No row has a right answer. Give --gold FILE with them, or put them into the jobs file.")
    if first := tally.first_unclear:
        screen.error(
            f"{counted(tally.unclear, 'right answer')} can't be scored: no choice of the row is called so. The first "
            f"is that of {first.file}, row {first.number}, {first.gold!r}."
        )
    return 1 if tally.unclear else 0


def _tell_of_runs(tally: Tally, screen: Screen) -> None:
    """Says that the rows are those of several runs, unless they are divided by a field that tells them apart."""
    differing = tally.differing_settings()
    if differing and not tally.by.keys() & set(differing):
        screen.notice(
            f"vllava: The rows are of several runs, with other values of {', '.join(differing)}. Score each alone, "
            f"or tell them apart by --by {differing[0]}."
        )


def _records(request: ScoreRequest, rows: tuple[Path, ...], screen: Screen | None = None) -> Iterator[Record]:
    """Reads the rows of one side; what is left out is said on `screen`, the first time."""
    notice = screen.notice if screen else lambda _: None
    further = [name for field in request.by for name in (field, field.partition(".")[0])]
    records = read_records(rows, request.gold, request.gold_form, further=further, notice=notice)
    return beside_clips(records, request.plot)


def _filled(tally: Tally, side: Side | None, records: Iterator[Record]) -> list[str]:
    """Adds all records and returns the names of the fields of the last one."""
    record = None
    for record in records:
        tally.add(record)
        if side:
            side.add(record)
    return list(record.values) if record else []


def _scored(request: ScoreRequest, tally: Tally) -> Figures:
    rows = tally.columns()
    figures = figures_of(rows)
    return {
        "files": [str(file) for file in request.rows],
        "gold": str(request.gold) if request.gold else None,
        **figures,
        "errors": dict(sorted(tally.errors.items())),
        "without_gold": len(rows) - figures["with_gold"] - tally.unclear,
        "unclear_gold": tally.unclear,
        "clips": int(rows.clips.max()) + 1,
        "resamples": RESAMPLES,
        "calibration": calibration_of(rows),
        "groups": [_group(field, value, rows.taken(its)) for field, value, its in _groups(tally)],
        "against": None,
    }


def _groups(tally: Tally) -> Iterator[tuple[str, str, Any]]:
    for field, grouping in tally.by.items():
        for value, places in grouping.groups():
            yield field, value, places


def _group(field: str, value: str, rows: Columns) -> Figures:
    return {"field": field, "value": value, **figures_of(rows)}


def _against(request: ScoreRequest, other_file: Path, side: Side, screen: Screen) -> Figures:
    other = Side()
    with screen.waiting("Comparing the rows"):
        for record in _records(request, (other_file,), screen):
            other.add(record)
        found = compared(side, other)
        both = _records(request, request.rows), _records(request, (other_file,))
        return {"file": str(other_file), **found.figures, "changed": changed_rows(found.changed, *both)}
