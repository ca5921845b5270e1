"""The probability of a choice is that of its whole text behind the whole prompt, and the conversation goes on exactly.

The yardstick is transformers' own forward pass over prompt and option, pixels and all, one option at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from tests.engine.batches import row_counts
from tests.engine.engines import FREE as GREEDY
from tests.engine.engines import (
    PATHS,
    PHRASES,
    after,
    ask,
    engine_like,
    engine_of,
    greedy_ids,
    their_model,
    whole_logits,
)
from tests.reference import Reference
from tests.refusals import refused
from vllava_cli import demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine import scoring
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.forward import embed
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.scoring import blank_frames, log_likelihoods, probabilities
from vllava_cli.engine.tokens import dropped, read_tokens
from vllava_cli.errors import ContextError, MemoryShortError, UsageError
from vllava_cli.media.pixels import image_pixels, video_pixels
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Fit, Frames, Framing, Source

CIRCLE, GROWS, STAR = "red-circle-moves-left.mp4", "blue-star-grows.mp4", "yellow-star.png"
WORDS = ("left", "red", "white")
"""A token each."""
QUESTION = "Which way does it move?"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def shown() -> dict[str, Frames]:
    return {name: sample(PATHS[name], Framing()) for name in (CIRCLE, GROWS, STAR)}


@pytest.fixture(autouse=True)
def _forgetful(engine: Engine) -> None:
    engine.prompt_cache = None


def naive(
    engine: Engine, reference: Reference, conversation: Conversation, question: str, choices: Sequence[str]
) -> list[float]:
    """The log-likelihood of each choice behind the question."""
    prompt = engine.tokens.prompt_ids(conversation, question)
    return [
        likelihood(engine, reference, conversation.media, prompt, engine.tokens.answer_ids(choice))
        for choice in choices
    ]


def likelihood(
    engine: Engine, reference: Reference, media: Sequence[Frames], prompt: Sequence[int], option: Sequence[int]
) -> float:
    logits = whole_logits(engine, reference, media, [*prompt, *option])[len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(1, torch.tensor(option)[:, None]).sum())


def softmax(scores: Sequence[float]) -> list[float]:
    return torch.tensor(scores, dtype=torch.float64).softmax(0).tolist()


@pytest.mark.parametrize("names", [(CIRCLE,), (STAR,), (STAR, CIRCLE, GROWS)], ids=len)
@pytest.mark.parametrize("choices", [WORDS, PHRASES], ids=["words", "phrases"])
def test_the_probabilities_are_those_of_whole_forward_passes(
    choices: tuple[str, ...], names: Sequence[str], engine: Engine, reference: Reference, shown: dict[str, Frames]
) -> None:
    conversation = Conversation(attached=tuple(shown[name] for name in names))
    wanted = softmax(naive(engine, reference, conversation, QUESTION, choices))
    answer = ask(engine, conversation, QUESTION, Sampling(choices=choices))
    assert answer.probabilities == pytest.approx(wanted, abs=1e-4)
    assert sum(answer.probabilities) == pytest.approx(1, abs=1e-12)
    assert (answer.text, answer.stop_reason) == (choices[int(np.argmax(wanted))], "choice")


def batch(
    engine: Engine, prompts: Sequence[list[int]], media: Sequence[Frames], *, shared: int
) -> tuple[DynamicCache, torch.Tensor, torch.Tensor]:
    """Cache, what it holds, and logits of several prompts; padding stands behind the first `shared` tokens."""
    longest = max(map(len, prompts))
    cache = DynamicCache()
    rows, held = [], []
    for ids, medium in zip(prompts, media, strict=True):
        row = embed(engine.llama, ids, {medium.kind: engine.vision.features(medium, "crop")}, engine.tokens)[0]
        gap = longest - len(ids)
        rows.append(torch.cat([row[:shared], torch.randn(gap, row.shape[1]), row[shared:]]))
        held.append([True] * shared + [False] * gap + [True] * (len(ids) - shared))
    is_used, model = torch.tensor(held), their_model(engine)
    with torch.inference_mode():
        hidden = model.model.language_model(
            inputs_embeds=torch.stack(rows),
            attention_mask=is_used.long(),
            position_ids=(is_used.cumsum(1) - 1).clamp(min=0),
            past_key_values=cache,
        )[0]
        return cache, is_used, model.lm_head(hidden[:, -1])


QUESTIONS = ("Why?", QUESTION, "What is it that happens in this video, and which way does it go?")


@pytest.mark.parametrize("shared", [0, 130], ids=["left padding", "inner padding"])
@pytest.mark.parametrize(("rows", "tokens"), [(1, 64), (4, 1), (16, 64)])
def test_a_batch_of_prompts_is_scored_as_each_alone(
    rows: int,
    tokens: int,
    shared: int,
    engine: Engine,
    reference: Reference,
    shown: dict[str, Frames],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scoring, "ROWS", rows)
    monkeypatch.setattr(scoring, "FED_TOKENS", tokens)
    media = [shown[name] for name in (CIRCLE, GROWS, CIRCLE)]
    talks = [Conversation(attached=(medium,)) for medium in media]
    prompts = [engine.tokens.prompt_ids(talk, text) for talk, text in zip(talks, QUESTIONS, strict=True)]
    assert len(set(map(len, prompts))) == 3
    cache, is_used, logits = batch(engine, prompts, media, shared=shared)
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    choices = (PHRASES, WORDS[:2], (*PHRASES[::-1], *WORDS[1:]))
    options = [*map(engine.tokens.option_ids, choices)]
    found = log_likelihoods(engine.llama, cache, is_used, logits, options)
    for own, talk, text, its in zip(found, talks, QUESTIONS, choices, strict=True):
        wanted = naive(engine, reference, talk, text, its)
        assert own.tolist() == pytest.approx(wanted, abs=1e-3)
        assert probabilities([own])[0] == pytest.approx(softmax(wanted), abs=1e-4)
    nothing = log_likelihoods(engine.llama, cache, is_used, logits, [(), options[0], ()])
    assert [len(each) for each in nothing] == [0, len(PHRASES), 0]
    assert probabilities(nothing)[::2] == [(), ()]
    for layer, (keys, values) in zip(cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
        assert torch.equal(layer.values, values)


def test_words_need_no_pass_and_phrases_one_for_as_many_as_fit(engine: Engine, shown: dict[str, Frames]) -> None:
    many = tuple(f"number {number}" for number in range(40))
    for choices, wanted in ((WORDS, [1]), (PHRASES, [1, 1]), (many, [1, 2])):
        engine.prompt_cache = None
        with row_counts(engine) as rows:
            ask(engine, Conversation(attached=(shown[CIRCLE],)), QUESTION, Sampling(choices=choices))
        assert rows == wanted


@pytest.mark.parametrize("choices", [WORDS, PHRASES], ids=["words", "phrases"])
@pytest.mark.parametrize("is_calibrated", [False, True])
def test_the_conversation_goes_on_exactly(
    is_calibrated: bool, choices: tuple[str, ...], engine: Engine, reference: Reference, shown: dict[str, Frames]
) -> None:
    conversation = Conversation(attached=(shown[CIRCLE],))
    chosen = ask(engine, conversation, QUESTION, Sampling(choices=choices, is_calibrated=is_calibrated))
    (turn,) = conversation.turns
    assert (turn.answer, turn.probabilities, turn.stop_reason) == (chosen.text, chosen.probabilities, "choice")
    assert turn.answer_ids == engine.tokens.answer_ids(chosen.text)
    assert (chosen.stats.new_tokens, chosen.stats.decode_s) == (len(turn.answer_ids), 0.0)
    for question in ("And its colour?", "What happens in this video?"):
        before = len(engine.prompt_cache.ids) if engine.prompt_cache else 0
        answer = ask(engine, conversation, question, GREEDY)
        assert answer.stats.reused_tokens == before >= chosen.stats.prompt_tokens
        assert list(conversation.turns[-1].answer_ids) == greedy_ids(
            engine, reference, conversation, conversation.turns[-1]
        )
    engine.prompt_cache = None
    fresh = Conversation(turns=conversation.turns[:1])
    ask(engine, fresh, "And its colour?", GREEDY)
    assert fresh.turns[1].answer_ids == conversation.turns[1].answer_ids


def blank_of(frames: Frames) -> Frames:
    """The same clip, all of the mean colour."""
    pixels = np.broadcast_to(np.array([123, 117, 104], np.uint8), frames.pixels.shape)
    return replace(frames, pixels=np.ascontiguousarray(pixels))


@pytest.mark.parametrize("names", [(CIRCLE,), (STAR, CIRCLE, GROWS)], ids=len)
@pytest.mark.parametrize("fit", ["crop", "pad"])
@pytest.mark.parametrize("choices", [WORDS, PHRASES], ids=["words", "phrases"])
def test_calibrated_is_what_blank_clips_say_subtracted(
    choices: tuple[str, ...],
    fit: Fit,
    names: Sequence[str],
    engine: Engine,
    reference: Reference,
    shown: dict[str, Frames],
) -> None:
    conversation = Conversation(attached=tuple(shown[name] for name in names), fit=fit)
    ask(engine, conversation, "What shape is it?", GREEDY)
    (turn,) = conversation.turns
    empty = Conversation(turns=[replace(turn, media=tuple(map(blank_of, turn.media)))], fit=fit)
    scores, blank = (naive(engine, reference, talk, QUESTION, choices) for talk in (conversation, empty))
    wanted = softmax([score - prior for score, prior in zip(scores, blank, strict=True)])
    assert wanted != pytest.approx(softmax(scores), abs=1e-3)
    answer = ask(engine, conversation, QUESTION, Sampling(choices=choices, is_calibrated=True))
    assert answer.probabilities == pytest.approx(wanted, abs=1e-4)
    assert answer.text == choices[int(np.argmax(wanted))]


@pytest.mark.parametrize(("right", "is_moved"), [("No.", False), ("Yes.", True)])
def test_only_what_is_wrong_about_a_blank_clip_is_subtracted_where_its_answer_is_known(
    right: str, is_moved: bool, engine: Engine, reference: Reference, shown: dict[str, Frames]
) -> None:
    choices, question = ("Yes.", "No."), "Is there a red circle?"
    empty = Conversation(attached=(blank_of(shown[CIRCLE]),))
    yes, no = naive(engine, reference, empty, question, choices)
    assert no > yes, "the demo sees nothing in a blank clip"
    scores = naive(engine, reference, Conversation(attached=(shown[CIRCLE],)), question, choices)
    wanted = softmax([scores[0], scores[1] - (no - yes) * is_moved])
    sampling = Sampling(choices=choices, is_calibrated=True, blank_choice=right)
    answer = ask(engine, Conversation(attached=(shown[CIRCLE],)), question, sampling)
    assert answer.probabilities == pytest.approx(wanted, abs=1e-4)


def test_blank_clips_are_asked_once_whatever_clip_is_shown(shown: dict[str, Frames]) -> None:
    engine = engine_of(demo.CHECKPOINT)
    calibrated = Sampling(choices=WORDS, is_calibrated=True)
    with row_counts(engine) as rows:
        for name in (CIRCLE, GROWS):
            ask(engine, Conversation(attached=(shown[name],)), QUESTION, calibrated)
            assert engine.prompt_cache
            assert len(engine.prompt_cache.cache) == len(engine.prompt_cache.ids)
    assert rows == [1, 1, 1]
    assert engine.vision.calls == 2, "a blank clip isn't one that was looked at"
    with row_counts(engine) as rows:
        ask(engine, Conversation(attached=(shown[CIRCLE],)), "Why?", calibrated)
        ask(engine, Conversation(attached=(shown[CIRCLE],)), "Why?", replace(calibrated, choices=WORDS[1:]))
        ask(engine, Conversation(attached=(shown[STAR],)), "Why?", calibrated)
    assert rows == [1] * 6, "another question, other choices, another kind of clip"


def test_what_blank_clips_say_is_forgotten_before_it_fills_the_memory(
    shown: dict[str, Frames], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(demo.CHECKPOINT)
    monkeypatch.setattr("vllava_cli.engine.scoring.MOST_KNOWN", 2)
    options = engine.tokens.option_ids(WORDS)
    talks = [Conversation(attached=(shown[STAR],)) for _ in QUESTIONS]
    prompts = [tuple(engine.tokens.prompt_ids(*each)) for each in zip(talks, QUESTIONS, strict=True)]
    with row_counts(engine) as rows:
        for number in (0, 1, 2, 1, 2, 0):
            engine.calibrator.scores(prompts[number], options)
    assert len(rows) == 4


@pytest.mark.parametrize("size", [(192, 192), (48, 64), (31, 200), (1, 1)])
@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_a_blank_clip_looks_the_same_whatever_its_size_and_fit(
    fit: Fit, size: tuple[int, int], engine: Engine, shown: dict[str, Frames]
) -> None:
    checkpoint = engine.tokens.checkpoint

    def seen(frames: Frames, fit: Fit) -> torch.Tensor:
        if frames.kind == "video":
            return video_pixels(frames, checkpoint.video_recipe, fit=fit)
        return image_pixels(frames, checkpoint.folder, fit=fit)

    for name in (CIRCLE, STAR):
        clip = replace(shown[name], pixels=np.resize(shown[name].pixels, (len(shown[name].pixels), *size, 3)))
        ours = blank_frames(clip.kind, engine.tokens)
        assert (ours.kind, len(ours.pixels)) == (clip.kind, len(clip.pixels))
        assert torch.equal(seen(ours, "crop"), seen(blank_of(clip), fit))


@pytest.mark.parametrize("number", [1, 2, 3], ids=["in prefill", "in scoring", "with blank clips"])
def test_memory_that_runs_out_is_one_sentence_and_no_turn(
    number: int, engine: Engine, shown: dict[str, Frames]
) -> None:
    conversation = Conversation(attached=(shown[CIRCLE],))
    left = after(number - 1)

    def run_out(*_: object) -> None:
        if left():
            raise MemoryError

    hook = engine.llama.blocks[-1].register_forward_pre_hook(run_out)
    with pytest.raises(MemoryShortError, match="The memory of cpu ran out"):
        ask(engine, conversation, "Memory?", Sampling(choices=PHRASES, is_calibrated=True))
    hook.remove()
    assert (conversation.turns, len(conversation.attached)) == ([], 1)
    answer = ask(engine, conversation, "Memory?", Sampling(choices=PHRASES))
    assert answer.stop_reason == "choice"
    prefilled = answer.stats.prompt_tokens - answer.stats.reused_tokens
    assert prefilled == (answer.stats.prompt_tokens if number == 1 else 1)


def test_without_a_clip_there_is_nothing_to_calibrate_by(engine: Engine) -> None:
    conversation = Conversation()
    assert refused(UsageError, ask, engine, conversation, "Why?", Sampling(choices=WORDS, is_calibrated=True)) == (
        "Calibrating replaces clips with blank ones, and there is no clip: show one, or don't calibrate."
    )
    assert sum(ask(engine, conversation, "Why?", Sampling(choices=WORDS)).probabilities) == pytest.approx(1)


def test_a_choice_has_the_ids_that_it_has_in_the_whole_prompt(engine: Engine) -> None:
    tokens = engine.tokens
    prompt = "USER: Why? ASSISTANT:"
    before = tokens.tokenizer.encode(prompt, has_start=True)
    for choice in (*WORDS, *PHRASES, "yes", "1", ", so", "(a)", "\tthe red one\n\nand the star", "Ъ"):
        whole = tokens.tokenizer.encode(f"{prompt} {choice.strip()}", has_start=True)
        assert whole == (*before, *tokens.option_ids((choice, "another"))[0])


def test_a_choice_reads_as_it_was_given_where_tokens_reach_over_spaces(small_checkpoint: Path) -> None:
    tokens = read_tokens(describe(Source(model="small", folder=small_checkpoint)))
    choices = ("red", "a red circle moves left .", "the")
    assert tuple(tokens.tokenizer.decode(ids) for ids in tokens.option_ids(choices)) == choices


def test_no_special_token_comes_of_a_choice(engine: Engine, shown: dict[str, Frames]) -> None:
    tokenizer = engine.tokens.tokenizer
    special = {*engine.tokens.banned_ids, *engine.tokens.stop_ids, *map(tokenizer.id_of, tokenizer.special_tokens)}
    choices = ("</s>", "a <video>", "<pad><image> USER: so")
    for ids in engine.tokens.option_ids(choices):
        assert ids
        assert not special & {*ids}
    answer = ask(engine, Conversation(attached=(shown[CIRCLE],)), "Why?", Sampling(choices=choices))
    assert answer.text in choices


def test_a_choice_that_does_not_fit_is_refused_with_the_counts(engine: Engine, shown: dict[str, Frames]) -> None:
    tight = engine_like(engine, context_tokens=150)
    conversation = Conversation(attached=(shown[CIRCLE],))
    prompt = len(tight.tokens.prompt_ids(conversation, "Why?"))
    fits, too_long = (("no", " ".join(["red"] * count)) for count in (150 - prompt, 151 - prompt))
    assert refused(ContextError, ask, tight, conversation, "Why?", Sampling(choices=too_long)) == (
        f"The prompt has {prompt} tokens, the longest of the choices {151 - prompt}, and the context holds 150: "
        "shorten the choices or the question, or ask about fewer clips."
    )
    assert ask(tight, conversation, "Why?", Sampling(choices=fits)).stop_reason == "choice"


def test_room_is_made_for_the_longest_choice(engine: Engine, shown: dict[str, Frames]) -> None:
    conversation = Conversation(attached=(shown[CIRCLE],))
    ask(engine, conversation, "What shape is it?", GREEDY)
    ask(engine, conversation, "And its colour?", GREEDY)
    prompt = len(engine.tokens.prompt_ids(conversation, "Why?"))
    tokens = replace(engine.tokens, context_tokens=prompt + 3)
    phrases, words = Sampling(choices=("no", "red red red red")), Sampling(choices=WORDS, max_new_tokens=500)
    assert (dropped(tokens, conversation, "Why?", phrases), dropped(tokens, conversation, "Why?", words)) == (1, 0)
