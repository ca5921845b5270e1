"""Imports go on in a thread; one that fails says so only where it is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from vllava_cli.imports import MODEL_MODULES, import_in_background


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_module_is_there_after_the_wait(folder: Path) -> None:
    (folder / "slow_one.py").write_text("import time\ntime.sleep(0.05)\nvalue = 5\n")
    import_in_background(["slow_one"])()
    assert sys.modules.pop("slow_one").value == 5


def test_a_module_that_fails_fails_where_it_is_named(folder: Path) -> None:
    (folder / "broken_one.py").write_text("raise OSError('a library is missing')\n")
    import_in_background(["broken_one", "no_such_module"])()
    with pytest.raises(OSError, match="a library is missing"):
        __import__("broken_one")


def test_what_is_imported_ahead_exists() -> None:
    import_in_background()()
    assert set(MODEL_MODULES) <= set(sys.modules)
