"""Numbers, tables at terminals of several widths, and sentences, whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.commands.bench_figures import (
    AGREEMENT,
    BATCH,
    DECODE,
    FAULTY,
    FIRST,
    LINES,
    PEAK,
    RECORD,
    SPEED,
    TRIAL,
    measured,
    of_one,
)
from vllava_cli.commands import bench_report as report
from vllava_cli.commands.bench_record import compare
from vllava_cli.engine.measuring.figures import OVER, Figure
from vllava_cli.nouns import Speed

WIDEST = Figure(
    name="decode, batch 16",
    unit="tokens/s",
    ours=measured(123456.0, 123457.0),
    snippet=measured(100234.5, 100236.5),
    limit=234567.0,
    note="Why not.",
)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (12345.6, "12,346"),
        (99.6, "100"),
        (99.4, "99.4"),
        (41.23, "41.2"),
        (0.01234, "0.0123"),
        (1e-9, "0.000000"),
        (None, "-"),
    ],
)
def test_three_digits_are_shown(value: float | None, shown: str) -> None:
    assert report.number(value) == shown


def test_factors_shares_and_speeds_are_short() -> None:
    factors = {4.72: "4.7x", 0.951: "0.95x", 12.3: "12x", 9.96: "10x", 0.996: "1.0x", 1234: "1,234x"}
    assert {factor: report.times(factor) for factor in factors} == factors
    shares = {0.714: "71%", 0.0042: "0.42%", 0.05: "5.0%", 1.2: "120%"}
    assert {part: report.share(part) for part in shares} == shares
    fast = Speed(operations=6.12e14, bytes=4.1e12)
    assert report.speed(SPEED) == "250 GFLOP/s in a large product, 12.0 GB/s in a large copy"
    assert report.speed(fast) == "612 TFLOP/s in a large product, 4,100 GB/s in a large copy"


def test_spreads_go_first_where_there_is_less_room_and_then_the_limits_own_column() -> None:
    assert report.figures_table((FIRST, DECODE), None) == (
        "                                     vllava           snippet  times as fast  limit  of limit\n"
        "first token      ms        41.2 (40.8-42.0)  81.0 (80.0-82.0)           2.0x      -         -\n"
        "decode, batch 1  tokens/s     400 (390-410)      100 (99-101)           4.0x    500       80%\n"
    )
    assert report.figures_table((FIRST, DECODE), 80) == (
        "                           vllava  snippet  times as fast  limit  of limit\n"
        "first token      ms          41.2     81.0           2.0x      -         -\n"
        "decode, batch 1  tokens/s     400      100           4.0x    500       80%\n"
    )
    assert report.figures_table((WIDEST,), 60) == (
        "                              vllava snippet faster limit\n"
        "decode, batch 16[1] tokens/s 123,456 100,236   1.2x   53%\n"
    )


@pytest.mark.parametrize("width", [60, 72, 80, 100, 140])
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    second = replace(FIRST, name="first token, turn 2", note="Why not.")
    (changed,) = compare(RECORD, of_one(*LINES)).trials
    (slower,) = compare(of_one(second, WIDEST), of_one(replace(second, ours=measured(54.3)), WIDEST)).trials
    tables = (
        report.figures_table((*LINES, second, WIDEST), width),
        report.summary((TRIAL, FAULTY), width),
        report.changes_table(replace(changed, lines=(*changed.lines, *slower.lines)), width),
    )
    assert max(map(len, "".join(tables).splitlines())) <= width


def test_each_note_has_one_number_and_more_than_a_limit_is_explained() -> None:
    figures = (replace(DECODE, limit=399.0), replace(BATCH, limit=799.0), replace(DECODE, limit=400.0), BATCH)
    assert [line[:20].rstrip() for line in report.figures_table(figures, None).splitlines()[1:]] == [
        *("decode, batch 1 [1]", "decode, batch 16 [2]", "decode, batch 1", "decode, batch 16 [3]")
    ]
    remarks = [figure.remark for figure in (*figures, BATCH)]
    assert report.numbered(remarks) == [("[1]", OVER), ("[2]", f"{BATCH.note} {OVER}"), ("[3]", BATCH.note)]


def test_a_summary_has_a_row_for_each_configuration() -> None:
    assert report.summary((TRIAL, FAULTY), None) == (
        "precision  attention  decode tokens/s  first token ms  prefill tokens/s  peak MiB\n"
        "auto       auto                   400            41.2            12,346       512\n"
        "fp16       flash [1]                -               -                 -         -\n"
    )
    assert report.summary((TRIAL, FAULTY), 60).splitlines()[0] == (
        "precision attention decode/s first ms prefill/s peak MiB"
    )


def test_a_change_stands_beside_the_snippets() -> None:
    faster = replace(DECODE, ours=measured(800.0, 810.0), snippet=measured(50.0, 51.0))
    (trial,) = compare(RECORD, of_one(faster, replace(PEAK, ours=measured(500.0)), BATCH)).trials
    assert report.changes_table(trial, None) == (
        "                            then  now             change      the snippet's\n"
        "decode, batch 1   tokens/s   400  805        2.0x faster        2.0x slower\n"
        "peak memory       MiB        512  500          2.4% less  within the spread\n"
        "decode, batch 16  tokens/s   800  800  within the spread                  -\n"
    )


def test_a_check_is_judged_in_fp32_alone() -> None:
    assert report.agreement(AGREEMENT) == (
        "64 of 64 greedy tokens are those of generate (all must be); logits differ by 1.5e-05 at most, "
        "and 0.001 is allowed: met."
    )
    assert report.agreement(replace(AGREEMENT, equal_tokens=63, largest_difference=None)) == (
        "63 of 64 greedy tokens are those of generate (all must be); logits differ by inf at most, "
        "and 0.001 is allowed: not met."
    )
    assert report.agreement(replace(AGREEMENT, equal_tokens=63, must_be_equal=False)) == (
        "63 of 64 greedy tokens are those of generate (in this dtype they may differ); logits differ by 1.5e-05 at "
        "most."
    )
