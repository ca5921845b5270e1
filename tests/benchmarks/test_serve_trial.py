"""A small load trial of a server in a process of its own: clients misbehave, and all others are answered rightly."""

from __future__ import annotations

import pytest

from benchmarks.serve_trial import main


def test_others_are_answered_rightly_and_nothing_is_left_over(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--clients", "20", "--rounds", "1", "--requests", "100"])
    assert code == 0, "".join(capsys.readouterr())
