"""Numbers as bench shows them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.commands.bench.parts import PLAN, measured
from vllava_cli.commands.bench import figures
from vllava_cli.nouns import Speed


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (12345.6, "12,346"),
        (123.4, "123"),
        (99.6, "100"),
        (99.4, "99.4"),
        (41.23, "41.2"),
        (1.0, "1.00"),
        (0.01234, "0.0123"),
        (1e-9, "0.000000"),
    ],
)
def test_three_digits_are_shown(value: float, shown: str) -> None:
    assert figures.number(value) == shown


def test_a_spread_has_the_decimals_of_its_median() -> None:
    assert figures.spread(measured(41.23, 9.5, 105.0)) == "41.2 (9.5-105.0)"
    assert figures.spread(measured(1000, 2000, 3000)) == "2,000 (1,000-3,000)"
    assert figures.spread(measured(0.5)) == "0.500"


@pytest.mark.parametrize(
    ("factor", "shown"),
    [(4.72, "4.7x"), (0.951, "0.95x"), (12.3, "12x"), (9.96, "10x"), (0.996, "1.0x"), (1234, "1,234x")],
)
def test_factors_are_short(factor: float, shown: str) -> None:
    assert figures.times(factor) == shown


@pytest.mark.parametrize(("part", "shown"), [(0.714, "71%"), (0.0042, "0.42%"), (0.05, "5.0%"), (1.2, "120%")])
def test_shares_are_short(part: float, shown: str) -> None:
    assert figures.share(part) == shown


def test_a_configuration_leaves_out_what_it_has_not() -> None:
    assert figures.configuration(PLAN) == "cpu, float32, sdpa"
    assert figures.configuration(replace(PLAN, quantisation="4bit")) == "cpu, float32, 4bit, sdpa"


def test_speeds_are_in_units_that_can_be_read() -> None:
    slow, fast = Speed(operations=2.5e11, bytes=1.2e10), Speed(operations=6.12e14, bytes=4.1e12)
    assert figures.speed(slow) == "250 GFLOP/s in a large product, 12.0 GB/s in a large copy"
    assert figures.speed(fast) == "612 TFLOP/s in a large product, 4,100 GB/s in a large copy"
