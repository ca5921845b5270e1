"""The CPU computes with as many threads as a plan says, or as the user says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from vllava_cli.engine import threads
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.load import load


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    monkeypatch.delenv(threads.SETTING, raising=False)
    yield
    torch.set_num_threads(before)


def test_loading_sets_what_the_plan_says(demo_engine: Engine) -> None:
    for count in (3, 1):
        load(replace(demo_engine.plan, threads=count), demo_engine.tokens, {"video"})
        assert torch.get_num_threads() == count
    load(replace(demo_engine.plan, threads=None), demo_engine.tokens, {"video"})
    assert torch.get_num_threads() == 1


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    monkeypatch.setenv(threads.SETTING, "2")
    threads.use(5)
    assert torch.get_num_threads() == 2
