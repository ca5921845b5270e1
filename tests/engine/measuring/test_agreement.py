"""A check finds that both agree, and how far they are apart where they don't."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.engine.engines import EXACT
from vllava_cli.engine.measuring.agreement import agreement, tolerance
from vllava_cli.engine.measuring.asked import Asked
from vllava_cli.engine.measuring.contest import Subject, Task, check, random_subject
from vllava_cli.engine.measuring.ours import Ours
from vllava_cli.engine.measuring.pair import Pair
from vllava_cli.engine.measuring.snippet import Snippet
from vllava_cli.engine.measuring.snippet_load import loaded_snippet
from vllava_cli.interrupt import never
from vllava_cli.nouns import Dtype, Frames, Quantisation

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", [None, "tiny"])
def test_in_fp32_all_tokens_are_equal(name: str | None, subject: Subject, frames: Frames) -> None:
    task = Task(frames=frames, question="What happens in this video?", new_tokens=12)
    found = check(random_subject(name) if name else subject, EXACT, task, is_interrupted=never, tell=str)
    assert (found.tokens, found.equal_tokens, found.tolerance, found.must_be_equal) == (12, 12, 1e-3, True)
    assert found.largest_difference < 1e-4
    assert found.is_met


@pytest.mark.parametrize(
    ("dtype", "quantisation"), [("bfloat16", None), ("float16", None), ("bfloat16", "4bit"), ("float32", "8bit")]
)
def test_in_fewer_bits_the_logits_agree(
    dtype: Dtype, quantisation: Quantisation | None, subject: Subject, frames: Frames
) -> None:
    task = Task(frames=frames, question="What happens in this video?", new_tokens=12)
    plan = replace(EXACT, dtype=dtype, quantisation=quantisation)
    found = check(subject, plan, task, is_interrupted=never, tell=str)
    assert (found.tokens, found.must_be_equal) == (12, False)
    assert 0 < found.largest_difference <= found.tolerance < 0.5


def test_other_weights_are_found_out(pair: Pair, question: Asked) -> None:
    other = loaded_snippet(question.tokens.checkpoint, EXACT)
    head: nn.Linear = other.model.lm_head
    with torch.no_grad():
        head.weight.neg_()
    found = agreement(Pair(engine=pair.engine, snippet=other), question, is_interrupted=never)
    assert (found.tokens, found.equal_tokens) == (12, 0)
    assert found.largest_difference > 1
    assert not found.is_met


def test_a_token_that_is_fed_wrongly_is_found_out(pair: Pair, question: Asked) -> None:
    other = loaded_snippet(question.tokens.checkpoint, EXACT)
    usual = other.generate(question, new_tokens=12)
    other.model.model.language_model.rotary_emb.inv_freq.mul_(1.01)
    found = agreement(Pair(engine=pair.engine, snippet=other), question, is_interrupted=never)
    assert found.largest_difference > 1e-3
    assert len(usual) == 12
    assert not found.is_met


def test_an_interruption_ends_a_check_before_logits_are_compared(pair: Pair, question: Asked) -> None:
    class Silent(Snippet):
        def logits(self, asked: Asked, new_ids: list[int]) -> torch.Tensor:
            raise AssertionError(f"a pass over {len(asked.ids) + len(new_ids)} ids")

    silent = Silent(model=pair.snippet.model, plan=pair.snippet.plan)
    with pytest.raises(KeyboardInterrupt):
        agreement(Pair(engine=pair.engine, snippet=silent), question, is_interrupted=lambda: True)


def test_ids_that_an_answer_may_not_hold_are_compared_as_well(subject: Subject, frames: Frames) -> None:
    said = subject.tokens.answer_ids("A red circle moves left.")
    banning = Subject(tokens=replace(subject.tokens, banned_ids=said))
    task = Task(frames=frames, question="What happens in this video?", new_tokens=4)
    assert check(banning, EXACT, task, is_interrupted=never, tell=str).is_met


def test_our_answer_is_read_from_the_clip_each_time(pair: Pair, question: Asked) -> None:
    ours = Ours(engine=pair.engine, is_interrupted=never)
    ours.answer_ids(question)
    looks = pair.engine.vision.calls
    ours.answer_ids(question)
    assert pair.engine.vision.calls == looks + 1


@pytest.mark.parametrize(
    ("dtype", "quantisation", "wanted"),
    [
        ("float32", None, 1e-3),
        ("float16", None, 5 * 2**-11 * 16 * 2**0.5 * 2),
        ("bfloat16", None, 5 * 2**-8 * 16 * 2**0.5 * 2),
        ("float16", "8bit", 5 / 254 * 16 * 2**0.5 * 2),
        ("float32", "8bit", 5 / 254 * 16 * 2**0.5 * 2),
        ("float32", "4bit", 5 * 2**-8 * 16 * 2**0.5 * 2),
    ],
)
def test_the_tolerance_follows_from_bits_layers_and_logits(
    dtype: Dtype, quantisation: Quantisation | None, wanted: float
) -> None:
    plan = replace(EXACT, dtype=dtype, quantisation=quantisation)
    assert tolerance(plan, layers=32, deviation=2.0) == pytest.approx(wanted)


def test_4bit_on_a_gpu_is_computed_in_the_dtype_of_the_plan() -> None:
    plan = replace(EXACT, device="cuda:0", dtype="float16", quantisation="4bit")
    assert tolerance(plan, layers=32, deviation=2.0) == pytest.approx(5 * 2**-11 * 16 * 2**0.5 * 2)
