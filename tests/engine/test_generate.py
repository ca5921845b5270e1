"""The engine's tokens are generate's tokens, however the prompt is made up, and its stream ends as promised."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from tests.checkpoints import edit_json, write_checkpoint
from tests.clips import picture
from tests.engine.batches import as_asked, crossed, run
from tests.engine.engines import FREE, ask, conversation_about, engine_like, engine_of, generated, new_ids, saying
from tests.reference import Reference, read_reference
from tests.refusals import refused
from vllava_cli.answers import Answer, Conversation, Sampling
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.tokens import read_tokens
from vllava_cli.errors import ContextError
from vllava_cli.interrupt import Cancel
from vllava_cli.nouns import Fit, Frames, Source


@pytest.fixture(scope="module")
def engine(small_checkpoint: Path) -> Engine:
    return engine_of(small_checkpoint)


@pytest.fixture(scope="module")
def reference(small_checkpoint: Path) -> Reference:
    return read_reference(small_checkpoint)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(picture(9, 80, 60)).save(path)
    return path


MEDIA = {
    "a video": ["clip"],
    "a clip of five frames": ["other_clip"],
    "an image": ["photo"],
    "two videos": ["clip", "other_clip"],
    "image, video, image": ["photo", "clip", "photo"],
    "video, image": ["clip", "photo"],
}


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("question", ["what is in this clip", "a red circle?"])
def test_greedy_tokens_equal_generate(
    name: str, question: str, engine: Engine, reference: Reference, request: pytest.FixtureRequest
) -> None:
    paths: list[Path] = [request.getfixturevalue(each) for each in MEDIA[name]]
    made = new_ids(engine, conversation_about(*paths), question)
    assert made == generated(engine, reference, question, *paths)
    assert len(made) > 3


def test_the_same_question_again_reuses_all_but_its_last_token(engine: Engine, clip: Path) -> None:
    """A cache that covered the whole prompt would leave nothing to feed, and the answer would be noise."""
    media = conversation_about(clip).media
    engine.prompt_cache = None
    first = ask(engine, Conversation(attached=media), "what is in this clip")
    again = ask(engine, Conversation(attached=media), "what is in this clip")
    other = ask(engine, Conversation(attached=media), "what is this")
    assert again.text == first.text
    assert again.stats.reused_tokens == again.stats.prompt_tokens - 1
    engine.prompt_cache = None
    assert ask(engine, Conversation(attached=media), "what is this").text == other.text


@pytest.mark.parametrize(("clips", "fit"), [(("other_clip",), "crop"), (("clip",), "pad")], ids=["clip", "fit"])
def test_another_clip_or_fit_never_meets_the_old_cache(
    clips: tuple[str], fit: Fit, engine: Engine, clip: Path, request: pytest.FixtureRequest
) -> None:
    ask(engine, conversation_about(clip), "what is in this clip")
    media = conversation_about(*map(request.getfixturevalue, clips)).media
    mixed = ask(engine, Conversation(attached=media, fit=fit), "what is in this clip")
    assert mixed.stats.reused_tokens < mixed.stats.prompt_tokens - engine.tokens.checkpoint.tokens_per_video
    engine.prompt_cache = None
    assert ask(engine, Conversation(attached=media, fit=fit), "what is in this clip").text == mixed.text


def test_the_conversation_remembers_the_turn(engine: Engine, clip: Path) -> None:
    conversation = conversation_about(clip)
    answer = ask(engine, conversation, "what")
    assert [(turn.question, turn.answer) for turn in conversation.turns] == [("what", answer.text)]
    assert answer.stop_reason == "length"
    assert answer.stats.new_tokens == 24
    assert answer.stats.prompt_tokens + 24 == len(engine.tokens.finished_ids(conversation))
    assert (conversation.attached, len(conversation.turns[0].media)) == ((), 1)
    later = ask(engine, conversation, "and then")
    assert later.stats.reused_tokens == answer.stats.prompt_tokens + 23  # not the last of an answer cut short


def test_a_prompt_that_does_not_fit_is_refused_with_the_counts(tmp_path: Path, clip: Path) -> None:
    folder = write_checkpoint(tmp_path / "tight", context=64)
    tokens = read_tokens(describe(Source(model="tight", folder=folder)))
    assert refused(ContextError, tokens.prompt_ids, conversation_about(clip, clip), "what") == (
        "The prompt has 92 tokens (80 for 2 videos, 12 for text), and the context holds 64: "
        "ask about fewer clips, or shorten the question."
    )
    assert refused(ContextError, tokens.prompt_ids, conversation_about(clip), "what " * 1500) == (
        "The prompt has 1,549 tokens (40 for 1 video, 1,509 for text), and the context holds 64: shorten the question."
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", ["<video>", "<image>", "<pad>"])
def test_special_tokens_cannot_be_generated(name: str, temperature: float, engine: Engine, clip: Path) -> None:
    token = engine.tokens.tokenizer.id_of(name)
    assert token
    sampling, conversation = replace(FREE, temperature=temperature, seed=1), conversation_about(clip)
    with saying(engine, *[token] * 99):
        batch = run(engine, sampling, as_asked(crossed(conversation.media, ("what", "why"))))
        made = [new_ids(engine, conversation, "what", sampling)]
    made += [list(each.answer.ids) for each in batch.found.values() if each.answer]
    assert len(made) == 3
    assert all(ids and token not in ids for ids in made)


def test_several_stop_tokens_are_obeyed(tmp_path: Path, clip: Path) -> None:
    folder = write_checkpoint(tmp_path / "stops")
    edit_json(folder / "generation_config.json", eos_token_id=[2, 7])
    engine = engine_of(folder)
    assert engine.tokens.stop_ids == {2, 7}
    with saying(engine, 7):
        answer = ask(engine, conversation_about(clip), "what")
    assert (answer.text, answer.stop_reason, answer.stats.new_tokens) == ("", "end", 0)


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


def asked(engine: Engine, medium: Frames, sampling: Sampling, at: int | None) -> tuple[Answer, Conversation, int]:
    """An answer with Ctrl-C behind the n-th layer, the conversation, and how many layers were run."""
    conversation = Conversation(attached=(Frames(clip=medium.clip, pixels=medium.pixels, times_s=medium.times_s),))
    with Press(engine, at) as press:
        answer = ask(engine, conversation, QUESTION, sampling, cancel=Cancel(press.is_pressed))
        return answer, conversation, press.layers


@pytest.mark.parametrize("is_static", [False, True], ids=["growing", "static"])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_no_layer_runs_behind_a_ctrl_c_and_the_next_answer_is_right(
    kind: str, is_static: bool, media: tuple[Frames, ...], random_engine: Engine
) -> None:
    medium = next(each for each in media if each.kind == kind)
    whole, _, layers = asked(engine_like(random_engine), medium, SAMPLING, None)
    for at in range(1, layers):
        engine = engine_like(random_engine)
        engine.is_static = is_static
        answer, conversation, run_layers = asked(engine, medium, SAMPLING, at)
        assert (run_layers, answer.stop_reason) == (at, "interrupted")
        assert whole.text.startswith(answer.text)
        conversation.cut(0)
        again = ask(engine, conversation, QUESTION, SAMPLING)
        assert (again.text, again.stop_reason) == (whole.text, whole.stop_reason)


def test_choices_are_left_between_two_layers(media: tuple[Frames, ...], demo_engine: Engine) -> None:
    whole, _, layers = asked(engine_like(demo_engine), media[0], CHOICES, None)
    for at in range(1, layers):
        engine = engine_like(demo_engine)
        answer, conversation, run_layers = asked(engine, media[0], CHOICES, at)
        assert (run_layers, answer.stop_reason, answer.text) == (at, "interrupted", "")
        assert conversation.turns[0].wait == "reading"
        conversation.cut(0)
        again = ask(engine, conversation, QUESTION, CHOICES)
        assert conversation.turns[0].wait == "first token"
        assert again.probabilities == pytest.approx(whole.probabilities, abs=1e-6)


def test_a_batch_stops_within_the_reading_of_a_clip(media: tuple[Frames, ...], random_engine: Engine) -> None:
    jobs = crossed(media[:4], (QUESTION, "Why?"))
    for at in range(1, 2 + len(random_engine.llama.blocks)):  # its tower has two layers
        with Press(engine := engine_like(random_engine), at) as press:
            batch = run(engine, SAMPLING, as_asked(jobs), most_rows=2, is_stopping=press.is_pressed)
        assert (press.layers, batch.found) == (at, {})
