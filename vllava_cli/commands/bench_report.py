"""The words of bench: numbers with three digits that matter, tables of aligned columns, sentences below them. Pure."""

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
    """12345.6 → "12,346", 41.23 → "41.2", 0.01234 → "0.0123", None → "-"; with the decimals of `like`."""
    if value is None:
        return "-"
    size, decimals = abs(value if like is None else like), 0
    while size and size < 99.5 and decimals < 6:
        size, decimals = size * 10, decimals + 1
    return f"{value:,.{decimals}f}"


def times(factor: float | None, unit: str = "x") -> str:
    """4.72 → "4.7x", 0.951 → "0.95x", 12.3 → "12x"."""
    return "-" if factor is None else f"{factor:,.{0 if factor >= 9.95 else 1 if factor >= 0.995 else 2}f}{unit}"


def share(part: float | None) -> str:
    """0.714 → "71%", 0.0042 → "0.42%"."""
    return times(None if part is None else 100 * part, "%")


def speed(found: Speed) -> str:
    """ "312 TFLOP/s in a large product, 1,550 GB/s in a large copy" """

    def scaled(value: float) -> str:
        return f"{number(value / 1e12)} T" if value >= 1e13 else f"{number(value / 1e9)} G"

    return f"{scaled(found.operations)}FLOP/s in a large product, {scaled(found.bytes)}B/s in a large copy"


def agreement(found: Agreement) -> str:
    """ "64 of 64 greedy tokens are those of generate (all must be); logits differ by 1.2e-05 at most, …: met." """
    demand = "all must be" if found.must_be_equal else "in this dtype they may differ"
    tokens = f"{found.equal_tokens} of {found.tokens} greedy tokens are those of generate ({demand})"
    difference = math.inf if found.largest_difference is None else found.largest_difference
    verdict = f", and {found.tolerance:.2g} is allowed: {'met' if found.is_met else 'not met'}"
    return f"{tokens}; logits differ by {difference:.2g} at most{verdict if found.must_be_equal else ''}."


def figures_table(figures: Sequence[Figure], width: int | None) -> str:
    """The richest form that has room: spreads go first, then the limit's own column; None is any width.

    A line with a remark has its number behind its name; `notes` has the notes.
    """
    marks = {remark: mark for mark, remark in notes(figures)}

    def cells(figure: Figure, shown: Callable[[Measured | None], str]) -> list[str]:
        name = " ".join(filter(None, [figure.name, marks.get(figure.remark)]))
        last = (times(figure.of_snippet), number(figure.limit), share(figure.of_limit))
        return [name, figure.unit, shown(figure.ours), shown(figure.snippet), *last]

    rich, plain = ([cells(figure, shown) for figure in figures] for shown in (_spread, _median))
    short = [[row[0].replace(" [", "["), *row[1:5], row[6]] for row in plain]
    return _aligned([([HEADS, *rich], 2), ([HEADS, *plain], 2), ([SHORT_HEADS, *short], 1)], width)


def notes(figures: Iterable[Figure]) -> list[tuple[str, str]]:
    """[("[1]", "The snippet ran out of memory.")], each sentence once."""
    return _numbered(figure.remark for figure in figures)


def faults(trials: Iterable[BenchTrial]) -> list[tuple[str, str]]:
    """Returns lines as `notes` does, about the faults that made configurations fail."""
    return _numbered(trial.fault or "" for trial in trials)


def summary(trials: Sequence[BenchTrial], width: int | None) -> str:
    """A line for each configuration with its main figures; where it failed, the number of its fault."""
    marks, rows = {fault: mark for mark, fault in faults(trials)}, []
    for trial in trials:
        found = {figure.name: figure.ours for figure in trial.lines}
        attention = " ".join(filter(None, [trial.attention, marks.get(trial.fault or "")]))
        rows.append([trial.precision, attention, *(_median(found.get(name)) for name in SUMMARISED)])
    return _aligned([([SUMMARY, *rows], 2), ([SHORT_SUMMARY, *rows], 1)], width)


def changes_table(trial: TrialChange, width: int | None) -> str:
    """Shows the snippet's change beside each of ours where there is room: it tells what the machine did."""
    rows = [["", "", "then", "now", "change", "the snippet's"]]
    for each in trial.lines:
        changes = (each.factor, each.verdict), (each.snippet_factor, each.snippet_verdict)
        words = (change(factor, verdict, is_memory=each.unit == "MiB") for factor, verdict in changes)
        rows.append([each.name, each.unit, number(each.then), number(each.now), *words])
    brief = [[row[0], "", *row[2:5]] for row in rows]
    return _aligned([(rows, 2), ([row[:5] for row in rows], 1), (brief, 1)], width)


def change(factor: float | None, verdict: Verdict | None, *, is_memory: bool) -> str:
    """ "1.2x faster", "4.2% slower", "1.3x more", "within the spread" """
    if verdict is None:
        return "-"
    if verdict == "same" or factor is None:
        return "within the spread"
    words, larger = ("less", "more") if is_memory else ("faster", "slower"), max(factor, 1 / factor)
    text = f"{times(larger) if larger >= 1.1 else share(larger - 1)} {words[factor < 1]}"
    return f"{text} (once)" if verdict == "unsure" else text


def _aligned(forms: Sequence[tuple[Rows, int]], width: int | None) -> str:
    """The first of (rows, gap between columns) that fits, else the last; the first two columns are words."""
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
    """ "41.2 (40.8-42.0)", with the median's decimals; a value that was measured once stands alone."""
    if measured is None or len(measured.values) == 1:
        return _median(measured)
    least, most = (number(value, like=measured.median) for value in (measured.least, measured.most))
    return f"{number(measured.median)} ({least}-{most})"


def _numbered(texts: Iterable[str]) -> list[tuple[str, str]]:
    """["a", "", "b", "a"] → [("[1]", "a"), ("[2]", "b")]."""
    return [(f"[{place}]", text) for place, text in enumerate(dict.fromkeys(filter(None, texts)), 1)]
