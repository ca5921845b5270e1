"""The next token: greedy, sampled, cut to the nucleus, never banned."""

import pytest
import torch

from vllava_cli.engine.sampler import Chooser, nucleus
from vllava_cli.nouns import Sampling

LOGITS = torch.tensor([0.1, 2.0, 1.9, -1.0, 5.0])
CPU = torch.device("cpu")


def draws(sampling: Sampling, banned: tuple[int, ...] = (), count: int = 300) -> list[int]:
    chooser = Chooser(sampling, banned, CPU)
    return [chooser.choose(LOGITS) for _ in range(count)]


def test_greedy_takes_the_likeliest() -> None:
    assert set(draws(Sampling())) == {4}


def test_a_banned_token_never_comes() -> None:
    assert set(draws(Sampling(), banned=(4,))) == {1}
    assert 4 not in draws(Sampling(temperature=5.0), banned=(4,))


def test_a_seed_repeats_the_draws_and_another_changes_them() -> None:
    first = draws(Sampling(temperature=2.0, seed=1))
    assert first == draws(Sampling(temperature=2.0, seed=1))
    assert first != draws(Sampling(temperature=2.0, seed=2))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 5e-324])
def test_the_smallest_temperatures_are_greedy(temperature: float) -> None:
    assert set(draws(Sampling(temperature=temperature), banned=(0,), count=20)) == {4}


def test_temperature_reaches_every_token() -> None:
    assert set(draws(Sampling(temperature=5.0, seed=0), count=1000)) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("top_p", "kept"), [(1.0, {0, 1, 2}), (0.6, {0, 1}), (0.5, {0}), (0.0, set()), (0.81, {0, 1, 2})]
)
def test_the_nucleus_holds_the_likeliest_that_reach_top_p(top_p: float, kept: set[int]) -> None:
    made = nucleus(torch.tensor([0.5, 0.3, 0.2]), top_p)
    assert set(made.nonzero().flatten().tolist()) == (kept or {0})
