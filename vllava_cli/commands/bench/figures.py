"""Numbers as bench shows them, three digits that matter. Pure."""

from __future__ import annotations

from vllava_cli.measures import Line, Measured
from vllava_cli.nouns import LoadPlan, Speed

ABSENT = "-"


def number(value: float) -> str:
    """12345.6 → "12,346", 41.23 → "41.2", 0.01234 → "0.0123", 0 → "0"."""
    return f"{value:,.{_decimals(value)}f}"


def spread(measured: Measured) -> str:
    """ "41.2 (40.8-42.0)", with the median's decimals; a value that was measured once stands alone."""
    if len(measured.values) == 1:
        return number(measured.median)
    decimals = _decimals(measured.median)
    return f"{number(measured.median)} ({measured.least:,.{decimals}f}-{measured.most:,.{decimals}f})"


def times(factor: float) -> str:
    """4.72 → "4.7x", 0.951 → "0.95x", 12.3 → "12x"."""
    return f"{factor:,.{0 if factor >= 9.95 else 1 if factor >= 0.995 else 2}f}x"


def share(part: float) -> str:
    """0.714 → "71%", 0.0042 → "0.42%"."""
    percent = 100 * part
    return f"{percent:,.{0 if percent >= 9.95 else 1 if percent >= 0.995 else 2}f}%"


def median(measured: Measured | None) -> str:
    return number(measured.median) if measured else ABSENT


def of_snippet(line: Line) -> str:
    return times(line.of_snippet) if line.of_snippet is not None else ABSENT


def of_limit(line: Line) -> str:
    return share(line.of_limit) if line.of_limit is not None else ABSENT


def limit(line: Line) -> str:
    return number(line.limit) if line.limit is not None else ABSENT


def configuration(plan: LoadPlan) -> str:
    """ "cuda:0, float16, 4bit, sdpa" """
    return ", ".join(filter(None, [plan.device, plan.dtype, plan.quantisation, plan.attention]))


def speed(found: Speed) -> str:
    """ "312 TFLOP/s in a large product, 1,550 GB/s in a large copy" """
    return f"{_scaled(found.operations, 'FLOP/s')} in a large product, {_scaled(found.bytes, 'B/s')} in a large copy"


def _scaled(value: float, unit: str) -> str:
    """Giga, or tera where that makes fewer than five digits: 3.12e14 → "312 TFLOP/s"."""
    return f"{number(value / 1e12)} T{unit}" if value >= 1e13 else f"{number(value / 1e9)} G{unit}"


def _decimals(value: float) -> int:
    """So that three digits are seen: 41.23 → 1, 0.01234 → 4; never more than 6."""
    size, decimals = abs(value), 0
    while size and size < 99.5 and decimals < 6:
        size, decimals = size * 10, decimals + 1
    return decimals
