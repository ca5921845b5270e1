from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tests name files as a user does, from the folder they are in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
