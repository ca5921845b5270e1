"""How long bars are, and what stands beside them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.commands.bench.parts import BATCH, DECODE, FIRST, LOAD, PEAK, measured
from vllava_cli.commands.bench.bars import Bar, Group, groups


def lengths(group: Group) -> dict[str, float]:
    return {bar.who: bar.length for bar in group.bars}


def test_a_bar_is_a_share_of_the_limit() -> None:
    (group,) = groups([DECODE])
    assert group == Group(
        name="decode, batch 1",
        bars=(
            Bar(who="vllava", length=0.8, spread=(0.78, 0.82), text="400 tokens/s, 4.0x as fast, 80% of the limit"),
            Bar(who="snippet", length=0.2, spread=(0.198, 0.202), text="100 tokens/s"),
            Bar(who="limit", length=1.0, spread=(1.0, 1.0), text="500 tokens/s"),
        ),
    )


def test_less_time_is_a_longer_bar() -> None:
    (load,) = groups([LOAD])
    assert lengths(load) == pytest.approx({"vllava": 0.2, "snippet": 0.05, "limit": 1.0})
    assert load.bars[0].spread == pytest.approx((0.1 / 0.6, 0.25))


def test_the_best_is_longest_where_there_is_no_limit_or_it_was_beaten() -> None:
    first, beaten = groups([FIRST, replace(DECODE, limit=200.0)])
    assert lengths(first) == pytest.approx({"vllava": 1.0, "snippet": 41.23 / 81})
    assert lengths(beaten) == pytest.approx({"vllava": 1.0, "snippet": 0.25, "limit": 0.5})
    assert beaten.bars[0].spread == (0.975, 1.0)


def test_less_memory_is_not_called_fast() -> None:
    (peak,) = groups([PEAK])
    assert [bar.text for bar in peak.bars] == ["512 MiB, 2.0x as little", "1,024 MiB"]


def test_who_was_not_measured_has_no_bar() -> None:
    nothing = replace(BATCH, ours=None)
    assert [group.name for group in groups([BATCH, nothing, replace(BATCH, ours=measured(0.0))])] == [BATCH.name]
    assert [lengths(group) for group in groups([BATCH])] == [{"vllava": 1.0}]
