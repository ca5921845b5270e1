"""The manifest: what is written is what is read, whatever names and fields there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.batch.ray_cluster.rows import jobs
from vllava_cli.batch.clip_jobs import units_of
from vllava_cli.batch.jobs import Wanted, made
from vllava_cli.batch.ray_cluster import manifest

ODD = (
    Wanted(path="a b\n.mp4", question="Why?\x00", fields={"n": 1, "of": [1.5, None, "é"], "half": "\udcff"}),
    Wanted(path="caf\udce9.mp4", question="日本?"),
    Wanted(path="s3://bucket//a?b#c.mp4", question="Why?"),
    Wanted(path="a b\n.mp4", question="And?"),
)


def test_units_come_back_as_they_were(tmp_path: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    units = units_of([*made(ODD, "settings"), *jobs(9000)])
    assert len(units) == 9003
    place = manifest.write(str(tmp_path), units)
    assert place == str(tmp_path / "manifest.parquet")
    assert [manifest.unit_of(row) for row in pq.read_table(place).to_pylist()] == units
    assert pq.ParquetFile(place).num_row_groups == 3
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.parquet"]
