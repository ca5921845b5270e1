"""What a mistyped name is taken for."""

from __future__ import annotations

import pytest

from vllava_cli.commands.chat.nearest import nearest


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("frmaes", " Did you mean frames?"),
        ("fr", " Did you mean frames?"),
        ("FRA", " Did you mean frames?"),
        ("s", " Did you mean set, show or save?"),
        ("sa", " Did you mean save?"),
        ("xyzzy", ""),
        ("", ""),
    ],
)
def test_suggestions(name: str, suggestion: str) -> None:
    assert nearest(name, ("frames", "set", "show", "save")) == suggestion
