"""A batch on three machines: the rows are those of one machine, whatever ends in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.batch.ray_cluster.conftest import rows_by_id, rows_in, words
from tests.batch.ray_cluster.machines import Machines

pytestmark = pytest.mark.ray
pytest.importorskip("ray.data")

Started = Callable[..., "subprocess.Popen[bytes]"]
Rows = dict[str, dict[str, Any]]
PATIENCE_S = 240


def until(fact: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Waits for something to be so while the process runs."""
    end_s = time.monotonic() + PATIENCE_S
    while not fact():
        assert process.poll() is None, "it was over before"
        assert time.monotonic() < end_s, "it never came"
        time.sleep(0.02)


def actors() -> list[psutil.Process]:
    """The processes that hold an engine."""
    return [process for process in psutil.process_iter() if "EngineActor" in _name(process)]


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def answered(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["question"], row["answer"], row["frame_times_s"]


def parts_of(out: Path) -> list[Path]:
    return sorted(out.glob("part-*.jsonl"))


def said(tmp_path: Path) -> str:
    return (tmp_path / "stderr").read_text()


def test_a_client_gets_every_row_once_when_an_engine_and_a_machine_end(
    machines: Machines, store: Any, clips: Path, alone: Rows, started: Started, tmp_path: Path
) -> None:
    store.create_bucket(Bucket="clips")
    store.upload_file(str(clips / "clip-00.mp4"), "clips", "one.mp4")
    (tmp_path / "nothing.mp4").write_bytes(b"no video")
    out = tmp_path / "out"
    others = [str(tmp_path / "nothing.mp4"), "absent.mp4", "s3://clips/one.mp4", "s3://clips/absent.mp4"]
    more = ["--actors", "2", "--batch-size", "1", "--allow", "s3", "--ray", machines.client_address]
    process = started(*words(clips, *others, "-o", "out", *more))
    until(lambda: rows_in(out) >= 6, process)
    actors()[0].kill()
    until(lambda: rows_in(out) >= 14, process)
    machines.lose()
    try:
        assert process.wait(PATIENCE_S) == 1, said(tmp_path)
    finally:
        machines.add()
    found = rows_by_id(*parts_of(out))
    errors = {key: row for key, row in found.items() if row["error"]}
    fetched = {key: row for key, row in found.items() if row["path"] == "s3://clips/one.mp4"}
    assert {key: row for key, row in found.items() if key not in errors | fetched} == alone
    same = [row for row in alone.values() if Path(row["path"]).name == "clip-00.mp4"]
    assert sorted(map(answered, fetched.values())) == sorted(map(answered, same))
    kinds = [(Path(row["path"]).name, row["error"]["kind"], row["precision"]) for row in errors.values()]
    assert sorted(kinds) == [("absent.mp4", "missing", None)] * 4 + [("nothing.mp4", "unreadable", None)] * 2
    assert "6 jobs of 68 failed: 4 missing, 2 unreadable." in said(tmp_path)


def test_a_driver_that_is_killed_goes_on_where_it_was_and_then_has_nothing_to_do(
    machines: Machines, clips: Path, alone: Rows, started: Started, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command = words(clips, "-o", "out", "--actors", "2", "--batch-size", "1")
    process = started(*command, "--ray", machines.address)
    until(lambda: rows_in(out) >= 8, process)
    process.kill()
    process.wait()
    kept = rows_in(out)
    assert 8 <= kept < len(alone)
    assert started(*command, "--ray", machines.address).wait(PATIENCE_S) == 0, said(tmp_path)
    assert rows_by_id(*parts_of(out)) == alone
    assert f"{kept} done before and skipped." in said(tmp_path)
    # Nothing answers at this address: what is done needs no cluster.
    assert started(*command, "--ray", "127.0.0.1:1").wait(PATIENCE_S) == 0, said(tmp_path)
    assert rows_by_id(*parts_of(out)) == alone
    assert "60 done before and skipped." in said(tmp_path)
    assert started("merge", "all.jsonl", "out").wait(PATIENCE_S) == 0, said(tmp_path)
    assert rows_by_id(tmp_path / "all.jsonl") == alone


def test_a_cluster_keeps_the_contract_of_executors(machines: Machines, tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "tests.batch.ray_cluster.real_contract", machines.client_address, str(tmp_path)]
    done = subprocess.run(
        command, cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
