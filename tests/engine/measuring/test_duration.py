"""How long a contest is expected to take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllava_cli.engine.measuring.duration import expected_s, least_s


@dataclass(frozen=True)
class FakeLimits:
    """A second for a clip, 4 for the first token, a tenth for each step, whatever its rows."""

    vision_s: float = 1.0

    def first_token_s(self, _tokens: int) -> float:
        return 4.0

    def step_s(self, _rows: int, _tokens: float) -> float:
        return 0.1


LIMITS: Any = FakeLimits()


def test_the_rounds_of_all_measurements_are_added_up_slow_ones_repeated_less_often() -> None:
    """Of 20 and 40 seconds 4 tenths are for the first token, a quarter of these for the clip."""
    vision, prefill, first, second = 6 * (1 + 5), 18 * (1 + 2), 24 * (1 + 2), 48 * (1 + 1)
    one, four, clips = 20 + 40, 20 + 40 * (4 * 0.4 + 0.6), 20 * (8 * 0.4 + 0.6) + 40
    found = expected_s(LIMITS, (20.0, 40.0), tokens=(2070, 60), batches=(1, 4), repeat=5)
    assert round(found, 6) == round(vision + prefill + first + second + one + four + clips, 6)


def test_an_answer_takes_at_least_its_first_token_and_its_steps() -> None:
    assert least_s(LIMITS, tokens=(2070, 60)) == 10.0
