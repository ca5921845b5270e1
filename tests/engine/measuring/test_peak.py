"""The peak of memory is that of the work, not of what was before it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from vllava_cli.engine.measuring.peak import peak_bytes

MIB = 1 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux begins its count anew")
def test_memory_that_was_freed_before_does_not_count() -> None:
    before = peak_bytes(lambda: None, "cpu")
    # So small that the allocator keeps them, below one that lives.
    blocks = [torch.ones(60_000, dtype=torch.uint8) for _ in range(3000)]
    del blocks[:-1]
    nothing = peak_bytes(lambda: None, "cpu")
    assert before
    some = peak_bytes(lambda: torch.ones(100 * MIB, dtype=torch.uint8), "cpu")
    assert nothing
    assert nothing - before < 60 * MIB
    assert some
    assert 90 * MIB < some - nothing < 150 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is no such file to read")
def test_the_peak_is_read_when_the_work_is_done(tmp_path: Path) -> None:
    (tmp_path / "clear_refs").touch()

    def work() -> None:
        (tmp_path / "status").write_text("VmPeak:\t    9999 kB\nVmHWM:\t    1024 kB\nVmRSS:\t     512 kB\n")

    assert peak_bytes(work, "cpu", process=tmp_path) == MIB
    assert (tmp_path / "clear_refs").read_text() == "5"


def test_it_is_unknown_where_the_count_cannot_begin_anew(tmp_path: Path) -> None:
    done: list[str] = []
    assert peak_bytes(lambda: done.append("work"), "cpu", process=tmp_path / "none") is None
    assert peak_bytes(lambda: done.append("work"), "mps") is None
    assert done == []
