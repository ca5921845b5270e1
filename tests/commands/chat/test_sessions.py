"""The conversations that are kept: how they are listed, and how one of them is found."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from vllava_cli.commands.chat.sessions import find_session, list_sessions
from vllava_cli.errors import SessionError
from vllava_cli.media.fingerprint import Fingerprint
from vllava_cli.nouns import Framing, Sampling, Stats, Turn
from vllava_cli.screen import Screen
from vllava_cli.storage.session_file import MediumRecord, SessionRecord, TurnRecord, create, sessions_folder

DOG = MediumRecord(
    path=Path("/clips/dog.mp4"),
    kind="video",
    fingerprint=Fingerprint(bytes=1, sha256="0" * 64),
    framing=Framing(),
    times_s=(0.0,) * 8,
)
STARTED = "2026-11-22T19:40:05Z"
EMPTY = SessionRecord(model="demo", revision=None, fit="crop", started_at=STARTED, attached=(DOG,))
ASKED = TurnRecord(
    turn=Turn(
        question="What is\nit\x1b doing?",
        answer="It sleeps.",
        answer_ids=(1,),
        stop_reason="end",
        sampling=Sampling(),
        stats=Stats(prompt_tokens=1, reused_tokens=0, new_tokens=1, first_token_s=1.0, decode_s=0.0),
    ),
    media=(DOG, replace(DOG, path=Path("/clips/cat.png"), kind="image")),
    ended_at=STARTED,
)
ONE, TWO, OTHER = "2026-11-22T19-40-05Z", "2026-11-22T19-40-05Z_2", "2026-11-23T08-00-00Z"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return sessions_folder()


@pytest.fixture
def three(folder: Path) -> Path:
    records = {ONE: EMPTY, TWO: replace(EMPTY, turns=(ASKED,), attached=()), OTHER: replace(EMPTY, attached=())}
    for age_s, (id, record) in enumerate(records.items()):
        create(folder / f"{id}.jsonl", record).close()
        os.utime(folder / f"{id}.jsonl", (1e9 - age_s, 1e9 - age_s))
    return folder


def listed(*, is_json: bool = False) -> tuple[str, str]:
    out, err = io.StringIO(), io.StringIO()
    assert list_sessions(Screen(out=out, err=err), is_json=is_json) == 0
    return out.getvalue(), err.getvalue()


def test_sessions_are_listed_with_what_they_are_about_the_last_one_first(three: Path) -> None:  # noqa: ARG001
    assert listed() == (
        f"{ONE}    0 turns about dog.mp4.\n"
        f"{TWO}  1 turn about dog.mp4, cat.png. The last question: What is it doing?\n"
        f"{OTHER}    0 turns about no clip.\n",
        "",
    )


def test_as_json_each_session_is_an_object(three: Path) -> None:
    rows = [json.loads(line) for line in listed(is_json=True)[0].splitlines()]
    assert [row["id"] for row in rows] == [ONE, TWO, OTHER]
    assert rows[1] == {
        "id": TWO,
        "path": str(three / f"{TWO}.jsonl"),
        "model": "demo",
        "started_at": STARTED,
        "clips": ["/clips/dog.mp4", "/clips/cat.png"],
        "questions": ["What is\nit\x1b doing?"],
    }


def test_without_sessions_it_is_said_how_to_begin_one(folder: Path) -> None:
    assert listed() == ("", f"There is no session in {folder}: vllava chat CLIP begins one.\n")


@pytest.mark.parametrize(("id", "found"), [(None, ONE), (ONE, ONE), (TWO, TWO), ("2026-11-23T", OTHER)])
def test_a_session_is_found_by_its_id_or_by_a_beginning_that_only_it_has(
    id: str | None, found: str, three: Path
) -> None:
    assert find_session(id) == three / f"{found}.jsonl"


@pytest.mark.parametrize(
    ("id", "fault"),
    [("2026-11-22T", "2 sessions begin with 2026-11-22T"), ("dog", "There is no session dog in {folder}")],
)
def test_an_id_that_means_none_or_several_is_refused(id: str, fault: str, three: Path) -> None:
    with pytest.raises(SessionError) as caught:
        find_session(id)
    assert str(caught.value) == f"{fault.format(folder=three)}: vllava chat --sessions lists them."
