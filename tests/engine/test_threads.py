"""The CPU computes with as many threads as a plan says, with all cores for many rows, or as the user says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from vllava_cli.engine import threads
from vllava_cli.engine.batching import Batching, Finished, Query
from vllava_cli.engine.load import load
from vllava_cli.engine.stream import Engine
from vllava_cli.hardware import cpu_cores
from vllava_cli.nouns import Frames, Sampling


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
    with threads.all_cores():
        assert torch.get_num_threads() == 2


def test_a_batch_computes_with_all_cores_and_leaves_things_as_they_were(
    demo_engine: Engine, media: tuple[Frames, ...]
) -> None:
    torch.set_num_threads(cpu_cores() + 1)
    seen: list[int] = []

    def source(_most: int, *, is_waiting: bool) -> list[Query[int] | Finished[int]] | None:  # noqa: ARG001
        seen.append(torch.get_num_threads())
        return [Query(key=1, medium=media[0], question="Why?")] if len(seen) == 1 else None

    batching: Batching[int] = Batching(engine=demo_engine, sampling=Sampling(max_new_tokens=2), fit="crop", most_rows=2)
    assert len(list(batching.answers(source))) == 1
    assert set(seen) == {cpu_cores()}
    assert torch.get_num_threads() == cpu_cores() + 1
