"""Contestants take turns, so that what changes on the machine meanwhile changes for both."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from vllava_cli.engine.forward import memory_faults
from vllava_cli.errors import MemoryShortError
from vllava_cli.measures import Measured

SLOW_S = 10.0
"""A round that takes longer is repeated less often."""
SPENT_S = 50.0
"""About what all rounds of one measurement may take then."""
Measurement = Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Both:
    """What two contestants gave in turns; None for one that ran out of memory, as the note says."""

    ours: Measured | None
    snippet: Measured | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Turns:
    """`is_interrupted` is asked before and after each measurement; where it says so, KeyboardInterrupt is raised."""

    device: str
    repeat: int
    is_interrupted: Callable[[], bool]

    def of_both(self, *, ours: Measurement, snippet: Measurement) -> Both:
        """Errors: MemoryShortError where both ran out of memory; one alone is left out and the other goes on."""
        theirs, mine = (_Contestant(measure=each, device=self.device) for each in (snippet, ours))
        their_values, my_values = self.of_each((theirs.turn, mine.turn))
        if mine.fault and theirs.fault:
            raise mine.fault
        notes = {"This tool ran out of memory.": mine.fault, "The snippet ran out of memory.": theirs.fault}
        return Both(
            ours=None if mine.fault else Measured(values=tuple(my_values)),
            snippet=None if theirs.fault else Measured(values=tuple(their_values)),
            note="".join(note for note, fault in notes.items() if fault),
        )

    def of_each(self, measures: Sequence[Measurement]) -> list[list[float]]:
        """The values of each, taken in turns after a warm-up; where that took too long to repeat, it is what counts."""
        started_s = time.perf_counter()
        first = self._round(measures)
        further = repeats_of(time.perf_counter() - started_s, self.repeat)
        rounds = [self._round(measures) for _ in range(further)] or [first]
        return [list(values) for values in zip(*rounds, strict=True)]

    def _round(self, measures: Sequence[Measurement]) -> list[float]:
        return [self._asked(measure) for measure in measures]

    def _asked(self, measure: Measurement) -> float:
        if self.is_interrupted():
            raise KeyboardInterrupt
        value = measure()
        if self.is_interrupted():
            raise KeyboardInterrupt
        return value


def repeats_of(round_s: float, repeat: int) -> int:
    """How many rounds follow a first one of so many seconds; 0 where that one has to do.

    (0.1, 5) → 5; (20, 5) → 2; (60, 5) → 0.
    """
    return repeat if round_s <= SLOW_S else min(repeat, int(SPENT_S / round_s))


def free(device: str) -> None:
    """Gives back what nobody holds any more."""
    gc.collect()
    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("xpu"):
        torch.xpu.empty_cache()


@dataclass(kw_only=True)
class _Contestant:
    """One that is out of the contest once it ran out of memory."""

    measure: Measurement
    device: str
    fault: MemoryShortError | None = None

    def turn(self) -> float:
        """What is measured; 0 from where it ran out on."""
        if self.fault:
            return 0.0
        try:
            with memory_faults(self.device):
                return self.measure()
        except MemoryShortError as exc:
            # The error itself would hold all that the measurement had made.
            self.fault = MemoryShortError(*exc.args)
        free(self.device)
        return 0.0
