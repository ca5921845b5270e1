"""Makes the figures of some rows, as the objects that --json prints: of choices, open answers, and yes and no."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllava_cli.evaluate.intervals import interval
from vllava_cli.evaluate.tally import Columns, Kind, Said

if TYPE_CHECKING:
    from numpy.typing import NDArray

Figures = dict[str, Any]


def figures_of(rows: Columns) -> Figures:
    """Returns the figures of the rows with a known right answer; a kind of question that none has is None."""
    known = rows.taken(rows.has_gold)
    return {
        "rows": len(rows),
        "answered": int(rows.is_answered.sum()),
        "with_gold": len(known),
        "choice": _choice(known.taken(known.kind == Kind.CHOICE)),
        "open": _open(known.taken(known.kind == Kind.OPEN)),
        "yes_no": _yes_no(known.taken(known.gold_said > 0)),
    }


def figure(values: NDArray[Any], rows: Columns) -> Figures:
    """Returns the mean of some values with its interval, which is None if the rows are about one clip."""
    ends = interval(values.astype(float), rows.clips)
    low, high = ends or (None, None)
    return {"value": float(values.mean()) if len(values) else None, "low": low, "high": high, "rows": len(values)}


def _choice(rows: Columns) -> Figures | None:
    if not len(rows):
        return None
    with_choices = rows.chance[rows.chance > 0]
    return {
        "errors": int((~rows.is_answered).sum()),
        **_figures(rows, accuracy="exact"),
        "chance": float(with_choices.mean()) if len(with_choices) else None,
    }


def _open(rows: Columns) -> Figures | None:
    if not len(rows):
        return None
    names = {name: name for name in ("exact", "normalised", "word_f1")}
    return {"errors": int((~rows.is_answered).sum()), **_figures(rows, **names)}


def _figures(rows: Columns, **names: str) -> Figures:
    """Returns two figures for each column: of the answered rows, and of all of them with errors as wrong answers."""
    answered = rows.taken(rows.is_answered)
    found: Figures = {name: figure(getattr(answered, column), answered) for name, column in names.items()}
    wrong = {f"{name}_errors_wrong": figure(getattr(rows, column), rows) for name, column in names.items()}
    return found | wrong


def _yes_no(rows: Columns) -> Figures | None:
    """Returns the figures of answered questions of yes or no; those of "yes" come from scikit-learn, else are None."""
    errors = int((~rows.is_answered).sum())
    answered = rows.taken(rows.is_answered)
    if not len(rows):
        return None
    found: Figures = {
        "errors": errors,
        "accuracy": figure(answered.said == answered.gold_said, answered),
        **dict.fromkeys(("precision", "recall", "f1"), None),
        "yes_share": _share(answered.said == Said.YES),
        "gold_yes_share": _share(answered.gold_said == Said.YES),
        "neither": int((answered.said == Said.NEITHER).sum()),
    }
    try:
        from sklearn.metrics import precision_recall_fscore_support
    except ImportError:
        return found
    if len(answered):
        scores = precision_recall_fscore_support(
            answered.gold_said == Said.YES, answered.said == Said.YES, average="binary", zero_division=0.0
        )
        found |= dict(zip(("precision", "recall", "f1"), map(float, scores[:3]), strict=True))
    return found


def _share(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if len(values) else None
