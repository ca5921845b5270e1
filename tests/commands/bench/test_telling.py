"""How a comparison is told."""

from __future__ import annotations

import io
from dataclasses import replace

from tests.commands.bench.parts import DECODE, PEAK, RECORD, TRIAL, measured
from vllava_cli.commands.bench.compare import compare
from vllava_cli.commands.bench.telling import tell_comparison
from vllava_cli.screen import Screen


def test_a_change_stands_beside_the_snippets() -> None:
    faster = replace(DECODE, ours=measured(800.0, 810.0), snippet=measured(50.0, 51.0))
    leaner = replace(PEAK, ours=measured(500.0))
    out = io.StringIO()
    now = replace(RECORD, trials=(replace(TRIAL, lines=(faster, leaner)),))
    tell_comparison(compare(RECORD, now), Screen(out=out, err=io.StringIO()))
    assert out.getvalue() == (
        "\n"
        "against the run of 2026-11-22T19:40:05Z\n"
        "cpu, float32, sdpa\n"
        "                           then  now       change      the snippet's\n"
        "decode, batch 1  tokens/s   400  805  2.0x faster        2.0x slower\n"
        "peak memory      MiB        512  500    2.4% less  within the spread\n"
    )
