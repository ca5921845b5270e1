"""As many rows at once as the memory that is free has room for, at least one, and no more than pay."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest
import torch

from vllava_cli.engine.batch_size import ANSWER_TOKENS, MOST_ON_CPU, free_bytes, rows_in, rows_that_fit, used_bytes
from vllava_cli.engine.generate import Engine
from vllava_cli.nouns import Sampling

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("free", "row_bytes", "most", "wanted"),
    [
        (10, 2, 64, 3),
        (0, 2, 64, 1),
        (-5, 2, 64, 1),
        (1000, 2, 64, 64),
        (100, 0, 64, 64),
        (100, 10, 64, 7),
        (99, 10, 64, 6),
        (100, 70, 64, 1),
        (100, 1000, 64, 1),
    ],
)
def test_seven_tenths_of_what_is_free_are_filled(free: int, row_bytes: int, most: int, wanted: int) -> None:
    assert rows_in(free, row_bytes, most=most) == wanted


def test_what_is_free_of_this_machines_memory_is_some_of_it() -> None:
    assert 0 < free_bytes(CPU) < psutil.virtual_memory().total
    assert used_bytes(CPU) is None


def holding(engine: Engine, tokens: int, *, context: int) -> Engine:
    """An engine of whose KV cache about so many tokens are free."""
    values = free_bytes(CPU) // (tokens * 4)
    checkpoint = replace(engine.tokens.checkpoint, cache_values_per_token=values)
    known = replace(engine.tokens, checkpoint=checkpoint, context_tokens=context)
    return Engine(model=engine.model, tokens=known, plan=engine.plan)


def test_a_row_has_a_video_the_longest_question_and_an_answer(demo_engine: Engine) -> None:
    row = demo_engine.tokens.checkpoint.tokens_per_video + 100 + ANSWER_TOKENS
    tight = holding(demo_engine, 20 * row, context=1024)
    assert 12 <= rows_that_fit(tight, Sampling(), question_characters=100) <= 16
    assert 6 <= rows_that_fit(tight, Sampling(), question_characters=100 + row) <= 8
    assert 25 <= rows_that_fit(tight, Sampling(max_new_tokens=1), question_characters=10) <= 32


def test_no_row_is_longer_than_the_context(demo_engine: Engine) -> None:
    tight = holding(demo_engine, 20 * 200, context=200)
    assert 12 <= rows_that_fit(tight, Sampling(), question_characters=1_000_000) <= 16


def test_there_is_always_one_row_and_never_more_than_pay(demo_engine: Engine) -> None:
    assert rows_that_fit(holding(demo_engine, 1, context=1024), Sampling(), question_characters=10) == 1
    assert rows_that_fit(holding(demo_engine, 10**6, context=1024), Sampling(), question_characters=10) == MOST_ON_CPU
