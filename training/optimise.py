"""Muon for matrices, AdamW for the rest, one learning rate that warms up and falls in a line to a floor."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CLIP = 1.0
NOT_MATRICES = ("embed", "lm_head", "head.")
"""Parts of names of tables and last layers, which Muon is not for."""

Named = list[tuple[str, nn.Parameter]]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate goes over `steps`: up to `peak` in `warm_up` of them, down to `floor` of the peak."""

    steps: int
    warm_up: int
    floor: float
    peak: float = 3e-3

    def rate(self, step: int) -> float:
        return self.peak * min(1, (step + 1) / self.warm_up) * max(self.floor, 1 - step / self.steps)


class Optimiser:
    """Takes one step after another along the schedule."""

    def __init__(self, named: Named, schedule: Schedule) -> None:
        is_matrix = {
            name: weight.ndim == 2 and not any(part in name for part in NOT_MATRICES) for name, weight in named
        }
        matrices = [weight for name, weight in named if is_matrix[name]]
        rest = [weight for name, weight in named if not is_matrix[name]]
        self._schedule, self._step = schedule, 0
        self._parts: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(
                matrices, lr=schedule.peak, momentum=0.95, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"
            ),
            torch.optim.AdamW(rest, lr=schedule.peak, betas=(0.9, 0.98), weight_decay=0),
        )

    def clear(self) -> None:
        for part in self._parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self._parts:
            for group in part.param_groups:
                group["lr"] = self._schedule.rate(self._step)
            part.step()
        self._step += 1


def descend(loss: Tensor, optimisers: Sequence[Optimiser], clipped: Named) -> None:
    """One step down the loss; the gradient of the `clipped` weights together is at most CLIP long."""
    for optimiser in optimisers:
        optimiser.clear()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([weight for _, weight in clipped], CLIP)
    for optimiser in optimisers:
        optimiser.step()


class Average:
    """A running mean of weights that forgets slower the longer it runs, at most a thousandth a step."""

    def __init__(self, named: Named) -> None:
        self.weights = {name: weight.detach().clone() for name, weight in named}
        self._step = 0

    @torch.no_grad()
    def update(self, named: Iterable[tuple[str, nn.Parameter]]) -> None:
        kept = min(0.999, (self._step + 1) / (self._step + 20))
        for name, weight in named:
            self.weights[name].lerp_(weight, 1 - kept)
        self._step += 1
