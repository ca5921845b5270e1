"""A run without a model: killed, begun again, with deaths, rows that come twice and errors, and whole at its end."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.commands.bench_figures import FAULTY, RECORD, TRIAL
from vllava_cli.commands.bench_report import object_of
from vllava_cli.errors import OutputError
from vllava_cli.storage.jsonl import line_of, read_rows

pytest.importorskip("pyarrow")

from benchmarks.simulation.plan import Plan, Service, fails, of_bench

ROOT = Path(__file__).parents[1]
PHASES = ["jobs, clips, manifest", "first half, killed", "resume, rest", "merge", "check of what was merged"]


def simulated(folder: Path, *words: str) -> dict[str, Any]:
    command = [sys.executable, "scripts/simulate", "--json", "--folder", str(folder), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_each_of_3000_jobs_has_its_row_after_a_kill_and_deaths(tmp_path: Path) -> None:
    found = simulated(tmp_path / "run", "--jobs", "3000", "--questions", "2", "--deaths", "6")
    jobs = Plan(jobs=3000, questions=2).made()
    errors = sum(fails(job.id) for job in jobs)
    rows = list(read_rows(tmp_path / "run" / "all.jsonl"))
    assert sorted(row["id"] for row in rows) == sorted(job.id for job in jobs)
    assert {row["id"] for row in rows if row["error"]} == {job.id for job in jobs if fails(job.id)}
    assert found["check"] == {"rows": 3000, "ids": 3000, "errors": errors, "wrong": 0}
    assert [phase["name"] for phase in found["phases"]] == PHASES
    first, rest = found["phases"][1:3]
    assert 1500 <= first["rows"] <= found["found"] <= 2400
    assert rest["rows"] == 3000 - found["found"]
    assert found["deaths"] == 6
    assert found["again"] > 0
    assert [each["share"] for each in found["memory"]] == [0.25, 0.5, 0.75, 1.0]
    assert all(target["is_met"] for target in found["targets"])


def test_times_are_taken_from_what_bench_saved(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(line_of(object_of(replace(RECORD, trials=(FAULTY, TRIAL)))))
    together = of_bench(path, Service(), 16)
    assert together.decode_s == 0.0205
    assert together.answer_s == pytest.approx(0.04123 + RECORD.task.new_tokens / 800)
    assert of_bench(path, Service(), 15).answer_s == pytest.approx(0.04123 + RECORD.task.new_tokens / 400)
    path.write_bytes(line_of(object_of(replace(RECORD, trials=(FAULTY,)))))
    with pytest.raises(OutputError, match=r"doesn't say how long an answer takes"):
        of_bench(path, Service(), 16)
