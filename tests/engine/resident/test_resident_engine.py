"""What a resident engine says to each question is what an engine says that is asked nothing else."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.batches import QUESTIONS, Pass, watched
from tests.engine.engines import FREE as GREEDY
from tests.engine.engines import PATHS, after, ask, engine_like, greedy_ids, saying, whole_logits
from tests.engine.resident.asking import FREE, Asked, Gate, alone, check, mixed, resident_of, submit, wanted
from tests.engine.stories import Story
from tests.reference import Reference
from tests.waiting import PATIENCE_S, wait_for
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.engine.clip_cache import ClipCache
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.resident.resident_engine import AnswerWanted, Piece, ResidentEngine
from vllava_cli.errors import BusyError, ContextError, ServerError, UsageError
from vllava_cli.interrupt import Cancel
from vllava_cli.nouns import Frames

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("demo", {"most_rows": 8}),
        ("demo", {"most_rows": 2, "prefix_bytes": 0}),
        ("demo", {"prefix_bytes": 3_000_000}),
        ("ending", {"most_rows": 5}),
        ("random", {"most_rows": 16, "prefix_bytes": 500_000}),
    ],
)
def test_questions_that_differ_in_everything_are_answered_as_alone(
    kind: str, settings: dict[str, int], media: tuple[Frames, ...], request: pytest.FixtureRequest
) -> None:
    engine: Engine = request.getfixturevalue(f"{kind}_engine")
    chance = random.Random(kind)
    asked = mixed(engine, media, 60, len(settings))
    expected = [alone(engine, one) for one in asked]
    with resident_of(engine, **settings) as resident:
        order = chance.sample(range(len(asked)), len(asked))
        running: dict[int, Asked] = {}
        for number in order:
            running[number] = submit(resident, asked[number])
            time.sleep(chance.choice([0, 0, 0, 0.003, 0.02]))
        for number in order:
            check(running[number], expected[number])
        assert resident.figures.prefix_bytes <= settings.get("prefix_bytes", 1 << 40)
        assert (resident.figures.answers, resident.figures.running, resident.figures.waiting) == (60, 0, 0)


class Chat(Story):
    """A conversation with an engine that others ask, too: they may have shown it a clip before."""

    def ask(self, question: str = "", sampling: Sampling = GREEDY, *, patience: int = 10_000) -> None:
        question = question or self.random.choice(QUESTIONS)
        ask(self.engine, self.conversation, question, sampling, cancel=Cancel(after(patience // 5)))
        turn = self.conversation.turns[-1]
        if sampling == GREEDY:
            assert list(turn.answer_ids) == greedy_ids(self.engine, self.reference, self.conversation, turn)


def test_whatever_happens_in_chats_each_answer_is_that_of_a_full_prefill(
    engine: Engine, reference: Reference, media: tuple[Frames, ...]
) -> None:
    """Two chats take turns; transformers' own forward pass over all ids and pixels is the yardstick."""
    shown = dict(zip(PATHS, media, strict=False))
    for seed in range(20):
        engine.vision.forget()
        with resident_of(engine, prefix_bytes=(seed % 3) * 1_000_000) as resident:
            stories = [Chat(resident, reference, shown, number) for number in (seed, seed + 1000)]
            for _ in range(4):
                for story in stories:
                    story.go_on()


def test_a_turn_reads_only_what_it_adds(engine: Engine, media: tuple[Frames, ...]) -> None:
    conversation, finished = Conversation(attached=media[:1]), 0
    with resident_of(engine) as resident:
        for question in ("What happens?", "And its colour?", "Why?"):
            assert "".join(resident.stream(conversation, question, FREE)) == conversation.turns[-1].answer
            assert conversation.turns[-1].stats.reused_tokens == finished
            finished = len(engine.tokens.finished_ids(conversation))
    assert conversation.attached == ()


def test_what_many_questions_share_is_read_once(engine: Engine, media: tuple[Frames, ...]) -> None:
    """They come while the first is being read, three with the same pixels in other objects."""
    shared = len(engine.tokens.known_ids(Conversation(attached=media[:1])))
    engine.vision.forget()
    passes: list[Pass] = []
    with resident_of(engine) as resident:
        gate = Gate(engine)
        blocker = submit(resident, wanted(question="Who?"))
        assert gate.is_reached.wait(PATIENCE_S)
        same = [media[0], *(replace(media[0]) for _ in range(3))]
        asked = [submit(resident, wanted(medium, question=f"{number}?")) for number, medium in enumerate(same)]
        with watched(engine, passes.append):
            gate.open()
            stats = [each.answer.stats for each in asked]
        assert blocker.answer
        again = submit(resident, wanted(replace(media[0]), question="2?")).answer.stats
        figures = resident.figures
    assert [each.tower_calls for each in stats] == [1, 0, 0, 0]
    assert [each.reused_tokens for each in stats] == [0, shared, shared, shared]
    assert sum(each.columns for each in passes if each.columns >= shared) == shared
    assert (again.tower_calls, again.reused_tokens) == (0, again.prompt_tokens - 1)
    assert figures.tower_calls == 1
    assert figures.reused_tokens == 3 * shared + again.reused_tokens


def test_a_long_prompt_is_read_between_the_tokens_of_others(
    random_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompt has more tokens than four pieces; whoever decodes gets a token after each piece."""
    monkeypatch.setattr("vllava_cli.engine.resident.row_scheduler.CPU_PIECE_TOKENS", 128)
    long = wanted(question="why " * 130)
    expected = alone(random_engine, long)
    shapes: list[tuple[int, int]] = []
    with resident_of(random_engine) as resident:
        gate = Gate(random_engine)
        short = submit(resident, wanted(question="Who?", sampling=replace(FREE, max_new_tokens=60)))
        assert gate.is_reached.wait(PATIENCE_S)
        asked = submit(resident, long)
        with watched(random_engine, lambda each: shapes.append((each.rows, each.columns))):
            gate.open()
            check(asked, expected)
        assert short.answer
    assert asked.answer.stats.prompt_tokens > 4 * 128
    first = next(place for place, (_, columns) in enumerate(shapes) if columns == 128)
    assert shapes[first : first + 7] == [(1, 128), (1, 1)] * 3 + [(1, 128)]


def test_rows_decode_while_a_flood_of_prompts_comes(engine: Engine, media: tuple[Frames, ...]) -> None:
    columns: list[int] = []
    with resident_of(engine) as resident, watched(engine, lambda each: columns.append(each.columns)):
        asked = [
            submit(resident, wanted(media[number % 9], question=f"{number} {number % 7 * 'and '}?"))
            for number in range(80)
        ]
        for each in asked:
            assert each.answer
    reads = "".join("d" if each == 1 else "r" for each in columns)
    assert "rrr" not in reads.lstrip("r").rstrip("d")


@pytest.mark.parametrize("kind", ["demo", "random"])
def test_200_questions_of_which_some_are_cancelled(
    kind: str, media: tuple[Frames, ...], request: pytest.FixtureRequest
) -> None:
    engine: Engine = request.getfixturevalue(f"{kind}_engine")
    chance = random.Random(7)
    ones = mixed(engine, media, 20, 11)
    expected = [alone(engine, one) for one in ones]
    with resident_of(engine, most_rows=6, prefix_bytes=2_000_000) as resident:
        asked: list[tuple[int, Asked]] = []
        gone: set[Asked] = set()
        for _ in range(200):
            number = chance.randrange(len(ones))
            asked.append((number, submit(resident, ones[number])))
            if chance.random() < 0.4:
                leaving = chance.choice(asked[-12:])[1]
                leaving.running.cancel()
                gone.add(leaving)
            time.sleep(chance.choice([0, 0, 0.001, 0.01]))
        for number, each in asked:
            if each in gone and each.answer.stop_reason == "interrupted":
                assert expected[number].text.startswith(each.answer.text)
                assert each.text == (each.answer.text if ones[number].is_streaming else "")
            else:
                check(each, expected[number])
        assert resident.figures.answers == 200
        assert sum(each.answer.stop_reason == "interrupted" for each in gone) > 5


def test_what_waits_is_cancelled_at_once_and_what_is_read_between_layers(
    random_engine: Engine, media: tuple[Frames, ...]
) -> None:
    with resident_of(random_engine, most_rows=1) as resident:
        gate = Gate(random_engine)
        first, second = submit(resident, wanted(media[0])), submit(resident, wanted(media[2]))
        assert gate.is_reached.wait(PATIENCE_S)
        second.running.cancel()
        assert second.answer.stop_reason == "interrupted", "though the model's thread is held"
        assert second.answer.stats.prompt_tokens > 0
        first.running.cancel()
        assert not first.done.is_set()
        layers: list[float] = []
        random_engine.llama.on_layer = lambda share: layers.append(share)
        gate.open()
        assert first.answer.stop_reason == "interrupted"
        random_engine.llama.on_layer = random_engine.activity.advance
    assert (layers, first.answer.ids) == ([], ())


def test_a_row_that_decodes_is_cancelled_within_a_token_and_frees_its_place(random_engine: Engine) -> None:
    """The row is cancelled in another thread, at its fifth piece."""
    with resident_of(random_engine, most_rows=1) as resident:
        long = wanted(sampling=replace(FREE, max_new_tokens=100_000), question="Who?")
        events: list[str] = []

        def deliver(event: object) -> None:
            if isinstance(event, Piece):
                events.append(event.text)
                if len(events) == 5:
                    running[0].cancel()
            else:
                ended.set()

        ended, running = threading.Event(), list[Any]()
        running.append(resident.submit(long, deliver))
        next_one = submit(resident, wanted())
        assert ended.wait(PATIENCE_S)
        assert len(events) <= 6
        assert next_one.answer.stop_reason == "length"


def test_faults_are_those_of_their_own_question(engine: Engine, media: tuple[Frames, ...]) -> None:
    good = wanted(media[0], question="What happens?")
    bad = {
        wanted(media[0], question=" "): UsageError,
        wanted(media[0], question="why " * 3000): ContextError,
        wanted(sampling=Sampling(choices=("a", "b"), is_calibrated=True)): UsageError,
        wanted(media[0], sampling=Sampling(choices=("a",))): UsageError,
    }
    expected = alone(engine, good)
    with resident_of(engine) as resident:
        before, faulty, behind = submit(resident, good), [submit(resident, one) for one in bad], submit(resident, good)
        assert [type(each.end.fault) for each in faulty] == list(bad.values())
        check(before, expected)
        check(behind, expected)
        assert (resident.figures.answers, resident.figures.faults) == (2, 4)


def test_a_pass_that_fails_ends_its_own_rows_alone(random_engine: Engine, media: tuple[Frames, ...]) -> None:
    """The broken clip fails though it is read together with others; then a step of decoding fails."""
    broken, good = wanted(media[0]), [wanted(medium) for medium in media[2:5]]
    seen = random_engine.vision.features(media[0], "crop")[0]
    expected = [alone(random_engine, one) for one in good]

    def see(inputs: Any, is_failing: list[bool]) -> None:
        embedded = inputs[0]
        if (embedded == seen).all(dim=-1).any() or (embedded.shape[1] == 1 and is_failing and is_failing.pop()):
            raise RuntimeError("no luck")

    failing: list[bool] = []
    hook = random_engine.llama.register_forward_pre_hook(lambda _, inputs: see(inputs, failing))
    try:
        with resident_of(random_engine) as resident:
            asked = [submit(resident, one) for one in (good[0], broken, *good[1:])]
            assert str(asked[1].end.fault) == "The model failed: no luck."
            assert isinstance(asked[1].end.fault, ServerError)
            for each, one in zip([asked[0], *asked[2:]], expected, strict=True):
                check(each, one)
            failing.append(True)
            assert isinstance(submit(resident, good[0]).end.fault, ServerError)
            check(submit(resident, good[0]), expected[0])
    finally:
        hook.remove()


def test_a_listener_that_fails_ends_its_own_answer(random_engine: Engine) -> None:
    def deliver(_: object) -> None:
        raise RuntimeError("gone")

    with resident_of(random_engine, most_rows=1) as resident:
        resident.submit(wanted(sampling=replace(FREE, max_new_tokens=100_000)), deliver)
        assert submit(resident, wanted()).answer.stop_reason == "length"
        assert resident.figures.answers == 2


def test_a_thread_that_cannot_go_on_ends_all_and_takes_no_more(random_engine: Engine) -> None:
    class End(BaseException):
        pass

    def end(*_: object) -> None:
        raise End

    resident = ResidentEngine(engine=random_engine, most_rows=1)
    hook = random_engine.llama.register_forward_pre_hook(end)
    assert isinstance(submit(resident, wanted()).end.fault, ServerError)
    hook.remove()
    with pytest.raises(ServerError):
        submit(resident, wanted())
    resident.close()


def test_too_many_are_refused_and_cancelled_ones_make_room(random_engine: Engine) -> None:
    with resident_of(random_engine, most_rows=1, most_waiting=2) as resident:
        gate = Gate(random_engine)
        first = submit(resident, wanted())
        assert gate.is_reached.wait(PATIENCE_S)
        waiting = [submit(resident, wanted()) for _ in range(2)]
        with pytest.raises(BusyError, match="The queue is full, with 2 questions"):
            submit(resident, wanted())
        assert (resident.figures.running, resident.figures.waiting) == (1, 2)
        waiting[0].running.cancel()
        last = submit(resident, wanted())
        gate.open()
        assert {each.answer.stop_reason for each in (first, waiting[1], last)} == {"length"}


@pytest.mark.parametrize("is_hurried", [False, True])
def test_it_finishes_what_was_submitted_unless_it_is_in_a_hurry(is_hurried: bool, random_engine: Engine) -> None:
    resident = ResidentEngine(engine=random_engine, most_rows=2)
    assert resident.is_idle_since
    gate = Gate(random_engine)
    asked = [submit(resident, wanted()) for _ in range(5)]
    assert gate.is_reached.wait(PATIENCE_S)
    assert resident.is_idle_since is None
    closing = threading.Thread(target=lambda: resident.close(is_hurried=is_hurried))
    closing.start()
    assert wait_for(lambda: resident._is_closing)
    with pytest.raises(ServerError):
        submit(resident, wanted())
    gate.open()
    closing.join()
    reasons = [each.answer.stop_reason for each in asked]
    assert reasons == ["interrupted" if is_hurried else "length"] * 5
    assert resident.is_idle_since


def test_log_probabilities_are_those_of_a_full_prefill(
    engine: Engine, reference: Reference, media: tuple[Frames, ...]
) -> None:
    one = AnswerWanted(
        conversation=Conversation(attached=media[:1]), question="What happens?", sampling=FREE, top_logprobs=4
    )
    with resident_of(engine) as resident:
        asked = submit(resident, one)
        answer = asked.answer
    prompt = engine.tokens.prompt_ids(one.conversation, one.question)
    logits = whole_logits(engine, reference, media[:1], [*prompt, *answer.ids])[len(prompt) - 1 :]
    scores = logits.log_softmax(-1)
    assert [token.id for token in asked.logprobs] == list(answer.ids)
    assert "".join(token.text for token in asked.logprobs) == f" {answer.text}"
    for token, row in zip(asked.logprobs, scores, strict=False):
        assert token.logprob == pytest.approx(float(row[token.id]), abs=1e-4)
        best = row.topk(4)
        assert [each[0] for each in token.top] == best.indices.tolist()
        assert [each[2] for each in token.top] == pytest.approx(best.values.tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("text", "stops", "kept", "reason"),
    [
        ("A red circle moves left.", ("circle",), "A red ", "end"),
        ("A red circle moves left.", ("moves left!", "left?", "circus"), "A red circle moves left.", "end"),
        ("A red circle moves left.", ("s l", "e m"), "A red circl", "end"),
        ("A red circle moves left.", ("A",), "", "end"),
        ("It is 日本 now", ("本",), "It is 日", "end"),
        ("left left left left left left left left left left left", ("stop",), " ".join(["left"] * 10), "repetition"),
    ],
)
def test_a_stop_text_ends_an_answer_and_no_letter_of_it_is_delivered(
    text: str, stops: tuple[str, ...], kept: str, reason: str, engine: Engine
) -> None:
    one = wanted(question="Who?", stops=stops, sampling=Sampling(max_new_tokens=99))
    with saying(engine, *engine.tokens.answer_ids(text)), resident_of(engine) as resident:
        asked = submit(resident, one)
        answer = asked.answer
    assert (answer.text, asked.text, answer.stop_reason) == (kept, kept, reason)
    assert kept.startswith(engine.tokens.tokenizer.decode(answer.ids))
    assert len(asked.pieces) > len(answer.ids) / 2 or not kept


def test_a_prompt_is_counted_while_others_are_asked(engine: Engine, media: tuple[Frames, ...]) -> None:
    conversation = Conversation(attached=media[:1])
    with resident_of(engine) as resident:
        assert resident.prompt_tokens(conversation, "Why?") == len(engine.tokens.prompt_ids(conversation, "Why?"))
        with pytest.raises(ContextError, match="and the context holds"):
            resident.prompt_tokens(conversation, "why " * 4000)


def test_what_another_process_read_of_a_clip_is_taken_from_the_clip_cache(
    demo_engine: Engine, media: tuple[Frames, ...], tmp_path: Path
) -> None:
    clips = ClipCache(folder=tmp_path / "clips", tokens=demo_engine.tokens, origin={}, least_bytes=0, least_gain_s=-9)
    reader, engine = engine_like(demo_engine), engine_like(demo_engine)
    reader.clips = engine.clips = clips
    expected = alone(reader, wanted(media[0]))
    reader.keep_clips()
    with resident_of(engine) as resident:
        asked = submit(resident, wanted(replace(media[0])))
        check(asked, expected)
    shared = len(engine.tokens.known_ids(Conversation(attached=media[:1])))
    assert (asked.answer.stats.reused_tokens, asked.answer.stats.tower_calls) == (shared, 0)
