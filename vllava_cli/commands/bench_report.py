"""Writes the text of bench: numbers with three significant digits, aligned tables, and sentences below them. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from vllava_cli.commands.bench_record import TrialChange, Verdict
from vllava_cli.engine.measuring.figures import Agreement, BenchTrial, Figure, Measured
from vllava_cli.nouns import Speed

HEADS = ("", "", "vllava", "snippet", "times as fast", "limit", "of limit")
SHORT_HEADS = ("", "", "vllava", "snippet", "faster", "limit")
SUMMARY = ("precision", "attention", "decode tokens/s", "first token ms", "prefill tokens/s", "peak MiB")
SHORT_SUMMARY = ("precision", "attention", "decode/s", "first ms", "prefill/s", "peak MiB")
SUMMARISED = ("decode, batch 1", "first token", "prefill", "peak memory")
Rows = Sequence[Sequence[str]]


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

    def scaled(value: float) -> str:
        return f"{number(value / 1e12)} T" if value >= 1e13 else f"{number(value / 1e9)} G"

    return f"{scaled(found.operations)}FLOP/s in a large product, {scaled(found.bytes)}B/s in a large copy"


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

    A width of None has room for all. If a figure has a remark, its number (`numbered`) stands after the figure's name.
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
    """Writes a line for each configuration with its main figures; a failed one has the number of its fault."""
    marks, rows = {fault: mark for mark, fault in numbered(trial.fault or "" for trial in trials)}, []
    for trial in trials:
        found = {figure.name: figure.ours for figure in trial.lines}
        attention = " ".join(filter(None, [trial.attention, marks.get(trial.fault or "")]))
        rows.append([trial.precision, attention, *(_median(found.get(name)) for name in SUMMARISED)])
    return _aligned([([SUMMARY, *rows], 2), ([SHORT_SUMMARY, *rows], 1)], width)


def changes_table(trial: TrialChange, width: int | None) -> str:
    """Writes a table of changes. If it has room for the snippet's changes, they show what the machine itself did."""
    rows = [["", "", "then", "now", "change", "the snippet's"]]
    for each in trial.lines:
        changes = (each.factor, each.verdict), (each.snippet_factor, each.snippet_verdict)
        words = (change(factor, verdict, is_memory=each.unit == "MiB") for factor, verdict in changes)
        rows.append([each.name, each.unit, number(each.then), number(each.now), *words])
    brief = [[row[0], "", *row[2:5]] for row in rows]
    return _aligned([(rows, 2), ([row[:5] for row in rows], 1), (brief, 1)], width)


def change(factor: float | None, verdict: Verdict | None, *, is_memory: bool) -> str:
    """Writes a change: "1.2x faster", "4.2% slower", "1.3x more", "within the spread"."""
    if verdict is None:
        return "-"
    if verdict == "same" or factor is None:
        return "within the spread"
    words, larger = ("less", "more") if is_memory else ("faster", "slower"), max(factor, 1 / factor)
    text = f"{times(larger) if larger >= 1.1 else share(larger - 1)} {words[factor < 1]}"
    return f"{text} (once)" if verdict == "unsure" else text


def _aligned(forms: Sequence[tuple[Rows, int]], width: int | None) -> str:
    """Aligns the first (rows, gap between columns) that fits, else the last. The first two columns are words."""
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
    least, most = (number(value, like=measured.median) for value in (measured.least, measured.most))
    return f"{number(measured.median)} ({least}-{most})"
