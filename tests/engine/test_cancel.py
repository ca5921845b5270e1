"""Ctrl-C is heard between two layers of every pass, and what was read before it stays right."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from tests.engine.batches import as_asked, crossed, run
from vllava_cli.engine.generate import Engine
from vllava_cli.interrupt import Cancel
from vllava_cli.nouns import Answer, Conversation, Frames, Sampling

SAMPLING = Sampling(max_new_tokens=12, has_guard=False)
CHOICES = Sampling(choices=("a red circle", "a blue star that grows", "left"), is_calibrated=True)
QUESTION = "What happens in this video?"


class Press:
    """Ctrl-C at the n-th layer of anything: towers and language model are counted together."""

    def __init__(self, engine: Engine, at: int | None) -> None:
        self.layers, self._at = 0, at
        self._stack = ExitStack()
        towers = [engine.model.model.video_tower, engine.model.model.image_tower]
        blocks = [block for tower in towers for block in getattr(tower, "vision_model", tower).encoder.layers]
        for block in (*blocks, *engine.llama.blocks):
            self._stack.callback(block.register_forward_hook(self._count).remove)

    def __enter__(self) -> Press:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def is_pressed(self) -> bool:
        return self._at is not None and self.layers >= self._at

    def _count(self, *_: object) -> None:
        self.layers += 1


def engine_like(engine: Engine, *, is_static: bool = False) -> Engine:
    """The same model with nothing in its cache, which has seen nothing."""
    return Engine(model=engine.model, tokens=engine.tokens, plan=engine.plan, is_static=is_static)


def asked(engine: Engine, medium: Frames, sampling: Sampling, at: int | None) -> tuple[Answer, Conversation, int]:
    """An answer with Ctrl-C behind the n-th layer, the conversation, and how many layers were run."""
    conversation = Conversation(attached=(Frames(clip=medium.clip, pixels=medium.pixels, times_s=medium.times_s),))
    with Press(engine, at) as press:
        pieces = engine.stream(conversation, QUESTION, sampling, cancel=Cancel(press.is_pressed))
        return Answer.of(pieces), conversation, press.layers


@pytest.mark.parametrize("is_static", [False, True], ids=["growing", "static"])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_no_layer_runs_behind_a_ctrl_c_and_the_next_answer_is_right(
    kind: str, is_static: bool, media: tuple[Frames, ...], random_engine: Engine
) -> None:
    medium = next(each for each in media if each.kind == kind)
    whole, _, layers = asked(engine_like(random_engine), medium, SAMPLING, None)
    for at in range(1, layers):
        engine = engine_like(random_engine, is_static=is_static)
        answer, conversation, run_layers = asked(engine, medium, SAMPLING, at)
        assert (run_layers, answer.stop_reason) == (at, "interrupted")
        assert whole.text.startswith(answer.text)
        conversation.cut(0)
        again = Answer.of(engine.stream(conversation, QUESTION, SAMPLING))
        assert (again.text, again.stop_reason) == (whole.text, whole.stop_reason)


def test_choices_are_left_between_two_layers(media: tuple[Frames, ...], demo_engine: Engine) -> None:
    whole, _, layers = asked(engine_like(demo_engine), media[0], CHOICES, None)
    for at in range(1, layers):
        engine = engine_like(demo_engine)
        answer, conversation, run_layers = asked(engine, media[0], CHOICES, at)
        assert (run_layers, answer.stop_reason, answer.text) == (at, "interrupted", "")
        conversation.cut(0)
        again = Answer.of(engine.stream(conversation, QUESTION, CHOICES))
        assert again.probabilities == pytest.approx(whole.probabilities, abs=1e-6)


def test_a_batch_stops_within_the_reading_of_a_clip(media: tuple[Frames, ...], random_engine: Engine) -> None:
    jobs = crossed(media[:4], (QUESTION, "Why?"))
    for at in range(1, 2 + len(random_engine.llama.blocks)):  # its tower has two layers
        with Press(engine := engine_like(random_engine), at) as press:
            batch = run(engine, SAMPLING, as_asked(jobs), most_rows=2, is_stopping=press.is_pressed)
        assert (press.layers, batch.found) == (at, {})
