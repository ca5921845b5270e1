"""An engine behind a server answers as one in this process does, and refuses what can't be answered."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest

from tests.engine.engines import FREE, PHRASES, ask, engine_of
from tests.server.serving import Served, served
from vllava_cli import __version__, demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.client.answer_messages import digest_of, message_of, model_digest
from vllava_cli.client.connection import Address
from vllava_cli.client.remote_engine import RemoteEngine
from vllava_cli.engine.answering import AnswerRequest, Batching
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.hub import locate
from vllava_cli.errors import ServerError, VllavaError
from vllava_cli.interrupt import Cancel
from vllava_cli.media.sample import sample
from vllava_cli.media.select import spread
from vllava_cli.nouns import Frames, Framing, Wishes
from vllava_cli.server.openai.body_fields import MOST_VALUES
from vllava_cli.server.own.frame_shelf import FrameShelf
from vllava_cli.server.serve_settings import ServeSettings


@pytest.fixture(scope="module")
def here() -> Engine:
    return engine_of(demo.CHECKPOINT)


@pytest.fixture
def remote(here: Engine, demo_served: Served) -> RemoteEngine:
    return RemoteEngine.reached(Address(socket=demo_served.socket), here.tokens)


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


def test_a_question_that_cannot_be_answered_is_refused_in_the_same_words(here: Engine, remote: RemoteEngine) -> None:
    for question, sampling in (
        (" ", FREE),
        ("Why? " * 5000, FREE),
        ("Why?", Sampling(choices=("yes", "yes"))),
        ("Why?", Sampling(choices=("yes", "no"), is_calibrated=True)),
    ):
        faults = []
        for engine in (here, remote):
            conversation = Conversation()
            with pytest.raises(VllavaError) as caught:
                list(engine.stream(conversation, question, sampling))
            assert conversation == Conversation()
            faults.append((caught.type, str(caught.value)))
        assert faults[0] == faults[1]


@pytest.mark.parametrize("ending", ["cancel", "close", "interrupt"])
def test_an_answer_that_is_ended_is_a_turn_with_the_text_so_far(
    ending: str, random_there: RemoteEngine, media: list[Frames]
) -> None:
    """And it leaves no answer running on the server."""
    conversation, asked = Conversation(attached=(media[0],)), threading.Event()
    endless = Sampling(max_new_tokens=100_000, has_guard=False)
    texts = random_there.stream(conversation, "Why?", endless, cancel=Cancel(asked.is_set))
    shown = next(texts)
    if ending == "cancel":
        asked.set()
        shown += "".join(texts)
        assert shown == conversation.turns[0].answer
    elif ending == "close":
        texts.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            texts.throw(KeyboardInterrupt)
    (turn,) = conversation.turns
    assert turn.answer.startswith(shown) and (turn.stop_reason, turn.media) == ("interrupted", (media[0],))
    assert random_there.tokens.tokenizer.decode(turn.answer_ids) == turn.answer


@pytest.fixture(scope="module")
def random_engine(small_checkpoint: Path) -> Engine:
    """It never ends an answer by itself."""
    return engine_of(small_checkpoint)


@pytest.fixture(scope="module")
def random_there(random_engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RemoteEngine]:
    with served(random_engine, tmp_path_factory.mktemp("random")) as running:
        yield RemoteEngine.reached(Address(url=running.url), random_engine.tokens)


def test_a_batch_that_is_stopped_gives_what_it_has_begun(remote: RemoteEngine, media: list[Frames]) -> None:
    stop, given = threading.Event(), iter(range(99))

    def source(most: int, *, is_waiting: bool) -> list[AnswerRequest[int]]:  # noqa: ARG001
        return [AnswerRequest(key=next(given), medium=media[0], question="Why?") for _ in range(most)]

    batching = Batching(sampling=FREE, fit="crop", most_rows=3, cancel=Cancel(stop.is_set))
    found = []
    for result in remote.answers(source, batching):
        found.append(result.key)
        if len(found) == 4:
            stop.set()
    assert sorted(found) == list(range(len(found))) and 4 <= len(found) <= 8


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "is not one of vllava's. Check the address."),
        (b"HTTP/1.1 401 No\r\n\r\n", "wants its token: set VLLAVA_TOKEN to it."),
        (b"HTTP/1.1 200 OK\r\n\r\n[]", "is not one of vllava's: it is not an object"),
        (b"HTTP/1.1 200 OK\r\n\r\n{}", "is not one of vllava's: version is missing"),
        (b'HTTP/1.1 200 OK\r\n\r\n{"version": "9.0"}', f"is vllava 9.0, this is {__version__}: use the same."),
        (b"SSH-2.0\r\n", "it doesn't speak HTTP"),
        (b"", "can't be reached"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_sentence(here: Engine, reply: bytes, message: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"

        def answer() -> None:
            connection, _ = listening.accept()
            connection.recv(9999)
            connection.sendall(reply)
            connection.close()

        if reply:
            threading.Thread(target=answer, daemon=True).start()
        else:
            listening.close()
        with pytest.raises(ServerError) as caught:
            RemoteEngine.reached(Address(url=url), here.tokens)
    assert str(caught.value).startswith(f"The server at {url} ") and message in str(caught.value)


def test_another_model_is_refused(random_engine: Engine, demo_served: Served) -> None:
    with pytest.raises(ServerError, match="has another model"):
        RemoteEngine.reached(Address(url=demo_served.url), random_engine.tokens)


FRAMES = {"kind": "image", "fit": "crop", "shape": [1, 2, 2], "sizes": []}
ASKED = {
    "id": "a",
    "model": model_digest(describe(locate("demo", None))),
    "question": "Why?",
    "sampling": asdict(Sampling()),
    "fit": "crop",
}


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "message"),
    [
        ("PUT", "/vllava/frames", FRAMES, 204, ""),
        ("PUT", "/vllava/frames", FRAMES | {"shape": [1, 2, 3]}, 400, "the shape [1, 2, 3] isn't that of the pixels"),
        ("PUT", "/vllava/frames", FRAMES | {"kind": "video"}, 400, "the shape [1, 2, 2] isn't that of the pixels"),
        ("PUT", "/vllava/frames", FRAMES | {"sizes": [[3, 1]]}, 400, "a size is outside of 2x2"),
        ("PUT", "/vllava/frames", FRAMES | {"sizes": [[1]]}, 400, "the sizes aren't those of 1 frames"),
        ("PUT", "/vllava/frames", FRAMES | {"fit": "best"}, 400, "fit is not one of crop, pad, squash"),
        ("POST", "/vllava/answers", ASKED | {"attached": ["ab"]}, 409, "ab"),
        ("POST", "/vllava/answers", ASKED | {"dropped": 1}, 400, "1 turns are dropped, and there are only 0."),
        ("POST", "/vllava/answers", ASKED | {"sampling": {"top_p": 0}}, 400, "top_p above 0"),
        ("POST", "/vllava/answers", ASKED | {"sampling": {"blank_choice": "x"}}, 400, "'x' is not one of the choices"),
        ("POST", "/vllava/answers", ASKED | {"turns": [{"question": "?", "answer_ids": [9**9]}]}, 400, "answer_ids"),
        ("POST", "/vllava/answers", {}, 400, "id is missing"),
        ("POST", "/vllava/answers", ASKED | {"turns": [0] * MOST_VALUES}, 400, "more than 262,144 values."),
        ("POST", "/vllava/answers", ASKED | {"attached": ["\ud800"]}, 409, r"\ud800"),
        ("POST", "/vllava/answers", ASKED | {"model": "another"}, 503, "another model"),
        ("DELETE", "/vllava/answers/none", {}, 200, ""),
    ],
)
def test_messages_are_checked(
    demo_served: Served, method: str, path: str, body: dict[str, object], status: int, message: str
) -> None:
    content = json.dumps(body).encode() + (b"\n" + bytes(12)) * (method == "PUT")
    reply = httpx.request(method, demo_served.url + path, content=content)
    assert reply.status_code == status and message in reply.text


def test_frames_that_had_to_go_are_sent_again(here: Engine, media: list[Frames]) -> None:
    """The same frames are the same object as long as they are kept."""
    shelf = FrameShelf(here.tokens.checkpoint.video_recipe, most_bytes=300_000)
    messages = [message_of(frames, "crop") for frames in media if frames.kind == "video"]
    names = [hashlib.sha256(message).hexdigest() for message in messages]
    assert names == [digest_of(frames, "crop") for frames in media if frames.kind == "video"]
    for message in (*messages, messages[-1]):
        shelf.put(bytearray(message))
    kept = [shelf.find(name) for name in names]
    assert kept[-1] and not kept[0]
    assert shelf.find(names[-1]) is kept[-1]
    assert 0 < sum(frames.pixels.nbytes for frames in kept if frames) <= 300_000


def test_a_busy_server_is_asked_again(here: Engine, media: list[Frames], tmp_path: Path) -> None:
    settings = ServeSettings(wishes=Wishes(model="demo"), most_rows=1, most_waiting=1)
    requests = [AnswerRequest(key=number, medium=media[number % 3], question="Why?") for number in range(8)]
    given = iter([requests])
    with served(here, tmp_path, settings) as running:
        remote = RemoteEngine.reached(Address(socket=running.socket), here.tokens)
        batching = Batching(sampling=FREE, fit="crop", most_rows=8)
        results = list(remote.answers(lambda _most, *, is_waiting: next(given, None), batching))  # noqa: ARG005
    assert sorted(result.key for result in results if result.answer) == list(range(8))
