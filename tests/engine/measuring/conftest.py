"""What the tests of the measuring share: a clip, a question, and both tools around the demo's weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.engine.engines import EXACT
from vllava_cli import demo
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.measuring.figures import BenchTask
from vllava_cli.engine.measuring.measured_tools import random_tokens
from vllava_cli.engine.measuring.model_benchmark import ModelBenchmark
from vllava_cli.engine.tokens import Tokens, read_tokens
from vllava_cli.interrupt import never
from vllava_cli.machine import Speed
from vllava_cli.media.sample import sample
from vllava_cli.nouns import DecodeLimits, Frames, Framing, Source


@pytest.fixture(scope="package")
def frames() -> Frames:
    return sample(demo.CLIPS / "red-circle-moves-left.mp4", Framing())


@pytest.fixture(scope="package")
def tokens() -> Tokens:
    return read_tokens(describe(Source(model="demo", folder=demo.CHECKPOINT)))


class Making:
    """Makes benchmarks of the demo model, or of random weights, in fp32 on the CPU."""

    def __init__(self, frames: Frames, tokens: Tokens) -> None:
        self.frames, self.tokens = frames, tokens
        self.task = BenchTask(question="What happens in this video?", new_tokens=4, repeat=2, batches=(1, 3))

    def __call__(self, random: str | None = None, **changes: Any) -> ModelBenchmark:
        usual: dict[str, Any] = {
            "tokens": random_tokens(random) if random else self.tokens,
            "random": random,
            "plan": EXACT,
            "measure": lambda _: Speed(operations=1e11, bytes=1e10),
            "frames": self.frames,
            "limits": DecodeLimits(),
            "reading": None,
            "task": self.task,
            "is_interrupted": never,
            "expect": str,
        }
        return ModelBenchmark(**usual | changes)

    def loaded(self, random: str | None = None, **changes: Any) -> ModelBenchmark:
        """With both tools, and nothing measured but how long loading took."""
        task = replace(self.task, repeat=0, new_tokens=12)
        made = self(random, **{"task": task} | changes)
        next(made.figures())
        return made


@pytest.fixture(scope="package")
def making(frames: Frames, tokens: Tokens) -> Making:
    return Making(frames, tokens)


@pytest.fixture(scope="package")
def demo_tools(making: Making) -> ModelBenchmark:
    return making.loaded()
