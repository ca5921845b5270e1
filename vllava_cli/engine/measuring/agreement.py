"""Whether our answers are those of transformers: greedy tokens beside `generate`'s, logits beside a plain forward pass.

Tokens are equal in fp32. In 16 bits two orders of the same sums round differently, and where two tokens are about as
likely the other one may win: there it is the logits that have to agree, both given the ids that generate chose.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from vllava_cli.engine.forward import memory_faults
from vllava_cli.engine.measuring.asked import Asked
from vllava_cli.engine.measuring.ours import Ours
from vllava_cli.engine.measuring.pair import Pair
from vllava_cli.engine.measuring.snippet import Snippet
from vllava_cli.measures import Agreement
from vllava_cli.nouns import LoadPlan

EXACT_TOLERANCE = 1e-3
"""Of any logit in fp32."""
ROUNDINGS_PER_LAYER = 8
"""How often about a layer rounds what it passes on: norms, matrices, attention, both sums."""
SIGMAS = 5.0
"""How far the largest of a million differences lies from none."""
INT8_ROUNDING = 1 / 254
"""What 8bit makes of a layer's inputs has 127 steps on either side of 0."""


def agreement(pair: Pair, asked: Asked, *, is_interrupted: Callable[[], bool]) -> Agreement:
    """Raises KeyboardInterrupt where it is interrupted. Errors: MemoryShortError."""
    ours, plain = Ours(engine=pair.engine, is_interrupted=is_interrupted), _plain(pair)
    with memory_faults(plain.device):
        wanted = plain.generate(asked, new_tokens=asked.new_tokens, suppressed=asked.tokens.banned_ids)
        found = ours.answer_ids(asked)
        if is_interrupted():
            raise KeyboardInterrupt
        reference = plain.logits(asked, wanted).float()
        difference = (ours.logits(asked, wanted).float() - reference).abs().max()
    layers = pair.engine.model.config.get_text_config().num_hidden_layers
    return Agreement(
        tokens=len(wanted),
        equal_tokens=_shared(wanted, found),
        largest_difference=float(difference),
        tolerance=tolerance(pair.engine.plan, layers=layers, deviation=float(reference.std())),
        must_be_equal=_is_exact(pair.engine.plan),
    )


def tolerance(plan: LoadPlan, *, layers: int, deviation: float) -> float:
    """How far two logits for the same token may lie apart where all logits have this standard deviation.

    In 16 bits each rounding moves what is rounded by up to half a step, in a direction of its own: after n of them by
    sqrt(n) of that, relative to its size. A logit is a sum over all of it, so the same share of the logits' own
    deviation is the deviation of their error; both have one, so that of their difference is sqrt(2) of it. 32 layers in
    fp16 → 0.055 of the deviation, in bf16 → 0.44. bitsandbytes computes with 4bit weights in bf16 on the CPU, whatever
    the dtype is around it.
    """
    if _is_exact(plan):
        return EXACT_TOLERANCE
    rounding = max(_half_step(plan.dtype), _quantised_rounding(plan))
    return max(EXACT_TOLERANCE, SIGMAS * rounding * math.sqrt(2 * ROUNDINGS_PER_LAYER * layers) * deviation)


def _quantised_rounding(plan: LoadPlan) -> float:
    """Of what goes into quantised matrices; 0 for what is kept in the plan's dtype."""
    if plan.quantisation == "8bit":
        return INT8_ROUNDING
    return _half_step("bfloat16") if plan.quantisation == "4bit" and plan.device == "cpu" else 0.0


def _half_step(dtype: str) -> float:
    return torch.finfo(getattr(torch, dtype)).eps / 2


def _is_exact(plan: LoadPlan) -> bool:
    return plan.dtype == "float32" and plan.quantisation is None


def _plain(pair: Pair) -> Snippet:
    """transformers' own passes: through the snippet's whole towers, or ours where the snippet's are quantised."""
    if pair.engine.plan.quantisation:
        return Snippet(model=pair.engine.model, plan=pair.engine.plan)
    return pair.snippet


def _shared(left: Sequence[int], right: Sequence[int]) -> int:
    """How many are equal up to the first that differs: [1, 2, 3], [1, 2, 9] → 2."""
    pairs = zip(left, right, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
