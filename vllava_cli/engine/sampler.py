"""Picks the next token from a row of logits: greedy, or by temperature and top-p from a seeded generator."""

from __future__ import annotations

import torch

from vllava_cli.errors import OverflowedError
from vllava_cli.nouns import Sampling

OVERFLOWED = -1
"""Stands for an id where logits are infinite or not numbers."""
SMALLEST_TEMPERATURE = 1e-6
"""Below it fp32 would divide by zero; it is as good as greedy."""


class Sampler:
    """Chooses the tokens of one answer by its settings, with a random state of its own on the logits' device."""

    def __init__(self, sampling: Sampling, banned_ids: tuple[int, ...], device: torch.device) -> None:
        self._sampling = sampling
        self._banned = torch.tensor(banned_ids, dtype=torch.long, device=device)
        self._generator = torch.Generator(device=device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """The next id [1] from logits [vocabulary], on their device, without waiting for it.

        A banned id never comes; OVERFLOWED stands for logits that are no numbers.
        """
        scores = logits.float().index_fill(0, self._banned, float("-inf"))
        most, best = scores.max(dim=0, keepdim=True)
        if self._sampling.temperature:
            best = self._drawn(scores - most)
        return best.where(most.isfinite(), OVERFLOWED)

    def _drawn(self, scores: torch.Tensor) -> torch.Tensor:
        """An id [1] by temperature and top-p from scores of which the largest is 0: no temperature overflows then."""
        temperature = max(self._sampling.temperature, SMALLEST_TEMPERATURE)
        probabilities = torch.softmax(scores / temperature, dim=-1)
        kept = nucleus(probabilities, self._sampling.top_p)
        # What torch.multinomial does after it has waited for the device to check them.
        noise = torch.empty_like(kept).exponential_(1, generator=self._generator)
        return (kept / noise).argmax(dim=0, keepdim=True)


def greedy(logits: torch.Tensor, banned: torch.Tensor) -> list[int]:
    """The likeliest id of each row [B, vocabulary] that isn't banned; OVERFLOWED for a row of other than numbers."""
    most, best = logits.float().index_fill(1, banned, float("-inf")).max(dim=-1)
    ids: list[int] = best.where(most.isfinite(), OVERFLOWED).tolist()
    return ids


def checked(token: int) -> int:
    """The id itself. Errors: OverflowedError for OVERFLOWED."""
    if token == OVERFLOWED:
        raise overflowed()
    return token


def overflowed() -> OverflowedError:
    return OverflowedError(
        "The model's numbers overflowed: try --precision bf16 or fp32; where it runs in those, its weights are damaged."
    )


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keeps the likeliest tokens that together reach `top_p`, at least one: ([.5, .3, .2], 0.6) → [.5, .3, 0]."""
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(descending=True)
    is_kept = ordered.cumsum(dim=-1) - ordered < top_p
    is_kept[0] = True
    return torch.zeros_like(probabilities).scatter(0, order, ordered.where(is_kept, 0.0))
