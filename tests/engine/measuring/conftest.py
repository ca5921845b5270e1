"""What the tests of the measuring share: a clip, a question, and both models around the demo's weights."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.engine.engines import EXACT
from vllava_cli import demo
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.measuring.asked import Asked, asked
from vllava_cli.engine.measuring.contest import Subject
from vllava_cli.engine.measuring.limits import Sizes
from vllava_cli.engine.measuring.pair import Pair, load_pair
from vllava_cli.engine.measuring.turns import Turns
from vllava_cli.engine.tokens import read_tokens
from vllava_cli.interrupt import never
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Frames, Framing, Source

# 2 layers of 10 numbers wide: 100 parameters; 4 patches of 12 numbers in each of 8 frames, 3 layers of 4 by 6.
SIZES = Sizes(
    hidden=10,
    layers=2,
    language_parameters=100,
    head_parameters=50,
    attention_width=10,
    cache_values_per_token=40,
    vision_hidden=4,
    vision_inner=6,
    vision_layers=3,
    patches=4,
    patch_values=12,
)
ONCE = Turns(device="cpu", repeat=0, is_interrupted=never)


@pytest.fixture(scope="package")
def frames() -> Frames:
    return sample(demo.CLIPS / "red-circle-moves-left.mp4", Framing())


@pytest.fixture(scope="package")
def subject() -> Subject:
    return Subject(tokens=read_tokens(describe(Source(model="demo", folder=demo.CHECKPOINT))))


@pytest.fixture(scope="package")
def question(subject: Subject, frames: Frames) -> Asked:
    """It ends no answer and bans no id, as generate here."""
    tokens = replace(subject.tokens, stop_ids=frozenset(), banned_ids=())
    return asked(tokens, frames, "What happens in this video?", 12)


@pytest.fixture(scope="package")
def pair(question: Asked) -> Pair:
    return load_pair(question.tokens, EXACT, ONCE)[0]
