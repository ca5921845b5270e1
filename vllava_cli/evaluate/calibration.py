"""Calibration: whether answers with a probability of 0.8 are right in 8 of 10 cases; figures, and a plot of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli.errors import UsageError, quoted
from vllava_cli.evaluate.tally import Columns
from vllava_cli.storage.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BINS = 15
PLOT_ENDINGS = (".png", ".svg", ".pdf")
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#666666"
"""Colours of Okabe and Ito, which differ for the colour-blind and in shades of grey."""


def calibration_of(rows: Columns) -> dict[str, Any] | None:
    """Returns the figures of the rows that have a probability and a right answer; None if there are none.

    ECE is the mean of |accuracy - confidence| over bins of equal width, weighted by their rows. Brier is the mean
    squared distance between the probabilities and (1 for the right choice, 0 for the others), summed over choices.
    """
    import numpy as np

    rows = rows.taken(rows.has_gold & ~np.isnan(rows.confidence))
    if not len(rows):
        return None
    # A probability on the border of two bins is in the lower one.
    bins = np.clip(np.ceil(rows.confidence * BINS).astype(int) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    sums = [np.bincount(bins, values, minlength=BINS) for values in (rows.confidence, rows.exact)]
    confidence, accuracy = (values / np.maximum(counts, 1) for values in sums)
    return {
        "rows": len(rows),
        "ece": float((counts * abs(accuracy - confidence)).sum() / len(rows)),
        "brier": float(rows.brier.mean()),
        "confidence": float(rows.confidence.mean()),
        "accuracy": float(rows.exact.mean()),
        "bins": [
            {
                "from": number / BINS,
                "to": (number + 1) / BINS,
                "rows": int(counts[number]),
                "confidence": float(confidence[number]) if counts[number] else None,
                "accuracy": float(accuracy[number]) if counts[number] else None,
            }
            for number in range(BINS)
        ],
    }


def check_plot(path: Path, *, is_overwriting: bool) -> None:
    """Raises a UsageError if a plot can't be written there, before rows are read."""
    if path.suffix.lower() not in PLOT_ENDINGS:
        raise UsageError(f"--plot {quoted(path)} has an unknown ending: give one of {', '.join(PLOT_ENDINGS)}.")
    if path.exists() and not is_overwriting:
        raise UsageError(f"{quoted(path)} is already there. Give --overwrite to replace it, or name another file.")
    try:
        import matplotlib  # noqa: F401
    except ImportError as exc:
        raise UsageError("--plot needs matplotlib: pip install 'vllava[evaluate]'.") from exc


def write_plot(path: Path, found: Mapping[str, Any]) -> None:
    """Draws a reliability diagram with the number of answers in each bin. Errors: OutputError."""
    import io

    import matplotlib as mpl

    buffer = io.BytesIO()
    # Without a date and with fixed ids, the same rows give the same file.
    with mpl.rc_context({"svg.hashsalt": "vllava", "font.size": 10}):
        ending = path.suffix.lower()[1:]
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(ending)
        _drawn(found).savefig(buffer, format=ending, dpi=200, metadata=metadata)
    atomic_write(path, [buffer.getvalue()])


def _drawn(found: Mapping[str, Any]) -> Figure:
    from matplotlib.figure import Figure

    bins = [each for each in found["bins"] if each["rows"]]
    figure = Figure(figsize=(4.6, 5.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    edges, width = [each["from"] for each in bins], 1 / BINS
    upper.plot((0, 1), (0, 1), "--", color=_GREY, linewidth=1, label="perfect calibration")
    accuracy, confidence = ([each[name] for each in bins] for name in ("accuracy", "confidence"))
    upper.bar(edges, accuracy, width, align="edge", color=_BLUE, edgecolor="white", label="accuracy")
    label = "mean confidence"
    upper.plot(confidence, accuracy, "o", color=_ORANGE, markeredgecolor="white", label=label, clip_on=False)
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="share of right answers")
    upper.set_title(f"{found['rows']:,} answers · ECE {found['ece']:.3f} · Brier {found['brier']:.3f}", fontsize=10)
    upper.legend(loc="upper left", frameon=False, fontsize=9)
    lower.bar(edges, [each["rows"] for each in bins], width, align="edge", color=_GREY, edgecolor="white")
    lower.set(xlabel="probability of the answer", ylabel="answers")
    lower.yaxis.get_major_locator().set_params(integer=True)
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
