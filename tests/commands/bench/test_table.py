"""Tables at terminals of several widths, whole."""

from __future__ import annotations

import pytest

from tests.commands.bench.parts import DECODE, FAULTY, FIRST, LINES, TRIAL, measured
from vllava_cli.commands.bench.table import faults, notes, summary, table
from vllava_cli.measures import Line

WIDEST = Line(
    name="decode, batch 16",
    unit="tokens/s",
    ours=measured(123456.0, 123457.0),
    snippet=measured(100234.5, 100236.5),
    limit=234567.0,
    note="Why not.",
)


def test_all_columns_and_spreads_where_there_is_room() -> None:
    assert table((FIRST, DECODE), None) == (
        "                                     vllava           snippet  times as fast  limit  of limit\n"
        "first token      ms        41.2 (40.8-42.0)  81.0 (80.0-82.0)           2.0x      -         -\n"
        "decode, batch 1  tokens/s     400 (390-410)      100 (99-101)           4.0x    500       80%\n"
    )


def test_spreads_go_first_where_there_is_less() -> None:
    assert table((FIRST, DECODE), 80) == (
        "                           vllava  snippet  times as fast  limit  of limit\n"
        "first token      ms          41.2     81.0           2.0x      -         -\n"
        "decode, batch 1  tokens/s     400      100           4.0x    500       80%\n"
    )


def test_the_limits_own_column_goes_last() -> None:
    assert table((WIDEST,), 72) == (
        "                               vllava snippet faster   limit of limit\n"
        "decode, batch 16 [1] tokens/s 123,456 100,236   1.2x 234,567      53%\n"
    )
    assert table((WIDEST,), 62) == (
        "                               vllava snippet faster of limit\n"
        "decode, batch 16 [1] tokens/s 123,456 100,236   1.2x      53%\n"
    )
    assert table((WIDEST,), 60) == (
        "                            vllava snippet faster of limit\n"
        "decode, batch 16 [1] tok/s 123,456 100,236   1.2x      53%\n"
    )


@pytest.mark.parametrize("width", range(60, 140))
def test_no_line_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, table((*LINES, WIDEST), width).splitlines())) <= width
    assert max(map(len, summary((TRIAL, FAULTY), width).splitlines())) <= width


def test_each_note_has_one_number() -> None:
    again = Line(name="vision", unit="ms", note=LINES[-1].note)
    assert notes((*LINES, again)) == [("[1]", "The snippet ran out of memory."), ("[2]", "On a CPU it is all.")]
    names = [line.split("  ")[0] for line in table((*LINES, again), None).splitlines()[1:]]
    assert names[-3:] == ["decode, batch 16 [1]", "peak memory [2]", "vision [2]"]


def test_a_summary_has_a_row_for_each_configuration() -> None:
    assert summary((TRIAL, FAULTY), None) == (
        "precision  attention  decode tokens/s  first token ms  prefill tokens/s  peak MiB\n"
        "auto       auto                   400            41.2            12,346       512\n"
        "fp16       flash [1]                -               -                 -         -\n"
    )
    assert summary((TRIAL, FAULTY), 60) == (
        "precision attention decode/s first ms prefill/s peak MiB\n"
        "auto      auto           400     41.2    12,346      512\n"
        "fp16      flash [1]        -        -         -        -\n"
    )
    assert faults((TRIAL, FAULTY, FAULTY)) == [("[1]", "fp16 can't be had on a CPU: leave it out.")]
