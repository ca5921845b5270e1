"""How long the bars of a chart are, and what stands beside them. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from vllava_cli.commands.bench import figures
from vllava_cli.measures import Line

Who = Literal["vllava", "snippet", "limit"]


@dataclass(frozen=True, kw_only=True)
class Bar:
    """Lengths are from 0 to 1."""

    who: Who
    length: float
    spread: tuple[float, float]
    """From the worst to the best that was measured."""
    text: str


@dataclass(frozen=True, kw_only=True)
class Group:
    """The bars of one line."""

    name: str
    bars: tuple[Bar, ...]


def groups(lines: Sequence[Line]) -> Iterator[Group]:
    """Lines of which nothing was measured have none."""
    for line in lines:
        contenders = [each for each in _contenders(line) if each.ends[1] > 0]
        if contenders:
            longest = max(each.length for each in contenders)
            yield Group(name=line.name, bars=tuple(_bar(each, line, longest) for each in contenders))


@dataclass(frozen=True, kw_only=True)
class _Contender:
    """A value and its ends as what is better when it is more: 2 s → 0.5."""

    who: Who
    value: float
    length: float
    ends: tuple[float, float]


def _contenders(line: Line) -> Iterator[_Contender]:
    for who, found in (("vllava", line.ours), ("snippet", line.snippet)):
        if found:
            ends = sorted((_goodness(line, found.least), _goodness(line, found.most)))
            length = _goodness(line, found.median)
            yield _Contender(
                who="vllava" if who == "vllava" else "snippet",
                value=found.median,
                length=length,
                ends=(ends[0], ends[1]),
            )
    if line.limit:
        length = _goodness(line, line.limit)
        yield _Contender(who="limit", value=line.limit, length=length, ends=(length, length))


def _goodness(line: Line, value: float) -> float:
    return value if line.is_rate else 1 / value if value else 0.0


def _bar(found: _Contender, line: Line, longest: float) -> Bar:
    low, high = (min(1.0, end / longest) for end in found.ends)
    return Bar(who=found.who, length=found.length / longest, spread=(low, high), text=_text(found, line))


def _text(found: _Contender, line: Line) -> str:
    """ "41.2 tokens/s, 4.7x as fast, 71% of the limit" for this tool, the value alone for the others."""
    parts = [f"{figures.number(found.value)} {line.unit}"]
    if found.who == "vllava" and line.of_snippet is not None:
        parts.append(f"{figures.of_snippet(line)} as {'little' if line.unit == 'MiB' else 'fast'}")
    if found.who == "vllava" and line.of_limit is not None:
        parts.append(f"{figures.of_limit(line)} of the limit")
    return ", ".join(parts)
