"""An engine behind a server answers as one in this process does."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.batch.parts import Terminal  # noqa: F401
from tests.engine.engines import FREE, PHRASES, ask, engine_of
from tests.server.serving import Served, served
from vllava_cli import demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.client.connection import Address
from vllava_cli.client.remote_engine import RemoteEngine
from vllava_cli.engine.generate import Engine
from vllava_cli.media.sample import sample
from vllava_cli.media.select import spread
from vllava_cli.nouns import Frames, Framing


@pytest.fixture(scope="module")
def here() -> Engine:
    return engine_of(demo.CHECKPOINT)


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(engine_of(demo.CHECKPOINT), tmp_path_factory.mktemp("there")) as running:
        yield running


@pytest.fixture(scope="module")
def remote(here: Engine, there: Served) -> RemoteEngine:
    return RemoteEngine.reached(Address(socket=there.socket), here.tokens)


@pytest.fixture(scope="module")
def media() -> list[Frames]:
    return [spread(sample(path, Framing()), "crop") for path in demo.clips()]


def test_conversations_are_the_same_as_with_an_engine_of_this_process(
    here: Engine, remote: RemoteEngine, media: list[Frames]
) -> None:
    dice = random.Random(21)
    ours, theirs = Conversation(attached=(media[0],)), Conversation(attached=(media[0],))
    for _ in range(24):
        act = dice.choice(["ask", "ask", "sampled", "choices", "add", "cut"])
        if act == "add" and len(ours.media) < 3:
            medium = dice.choice(media)
            ours.attached, theirs.attached = (*ours.attached, medium), (*theirs.attached, medium)
        elif act == "cut":
            kept = dice.randrange(len(ours.turns) + 1)
            ours.cut(kept), theirs.cut(kept)
        else:
            sampling = {
                "sampled": Sampling(temperature=0.9, seed=dice.randrange(99), max_new_tokens=9),
                "choices": Sampling(choices=PHRASES, is_calibrated=True),
            }.get(act, FREE)
            question = dice.choice(["What happens in this video?", "And its colour?", "日本?"])
            assert here.make_room(ours, question, sampling) == remote.make_room(theirs, question, sampling)
            ask(here, ours, question, sampling)
            assert "".join(remote.stream(theirs, question, sampling)) == theirs.turns[-1].answer
        assert [(turn.answer_ids, turn.stop_reason, turn.prompt_sha256, turn.media) for turn in ours.turns] == [
            (turn.answer_ids, turn.stop_reason, turn.prompt_sha256, turn.media) for turn in theirs.turns
        ]
