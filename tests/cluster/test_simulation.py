"""A small run of the simulation: what is killed half-way is whole in the end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate"


def test_a_driver_that_is_killed_half_way_loses_and_doubles_nothing(tmp_path: Path) -> None:
    options = ("--jobs=3000", "--actors=5", "--deaths=9", "--doubles=0.02", f"--folder={tmp_path / 'out'}", "--json")
    done = subprocess.run([sys.executable, SCRIPT, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed, first, rest, reconciled, merged = json.loads(done.stdout)["phases"]
    assert listed["rows"] == reconciled["rows"] == merged["rows"] == 3000
    assert 1500 <= first["rows"] == rest["facts"]["done_before"] < 3000
    assert rest["rows"] == 3000 - first["rows"]
    assert 0.5 < rest["facts"]["busy_share"] <= 1.0
    rows = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert len({row["id"] for row in rows}) == len({row["path"] for row in rows}) == len(rows) == 3000
    assert 5 < sum(row["error"] is not None for row in rows) < 90
