"""Picks the next token from a row of logits: greedy, or by temperature and top-p from a seeded generator."""

from __future__ import annotations

import torch

from vllava_cli.nouns import Sampling

SMALLEST_TEMPERATURE = 1e-6
"""Below it fp32 would divide by zero; it is as good as greedy."""


class Chooser:
    """What stays the same over an answer: the settings, the banned ids, the random state on the logits' device."""

    def __init__(self, sampling: Sampling, banned_ids: tuple[int, ...], device: torch.device) -> None:
        self._sampling = sampling
        self._banned = torch.tensor(banned_ids, dtype=torch.long, device=device)
        self._generator = torch.Generator(device=device)
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def choose(self, logits: torch.Tensor) -> int:
        """The next id from logits [vocabulary]; a banned id never comes."""
        return int(self.pick(logits))

    def pick(self, logits: torch.Tensor) -> torch.Tensor:
        """The same as [1] on the logits' device, without waiting for it."""
        scores = logits.float().index_fill(0, self._banned, float("-inf"))
        if self._sampling.temperature == 0:
            return scores.argmax(dim=0, keepdim=True)
        # From the largest score down, so that the smallest temperature can't overflow.
        temperature = max(self._sampling.temperature, SMALLEST_TEMPERATURE)
        probabilities = torch.softmax((scores - scores.max()) / temperature, dim=-1)
        kept = nucleus(probabilities, self._sampling.top_p)
        # What torch.multinomial does after it has waited for the device to check them.
        noise = torch.empty_like(kept).exponential_(1, generator=self._generator)
        return (kept / noise).argmax(dim=0, keepdim=True)


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """Keeps the likeliest tokens that together reach `top_p`, at least one: ([.5, .3, .2], 0.6) → [.5, .3, 0]."""
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(descending=True)
    is_kept = ordered.cumsum(dim=-1) - ordered < top_p
    is_kept[0] = True
    return torch.zeros_like(probabilities).scatter(0, order, ordered.where(is_kept, 0.0))
