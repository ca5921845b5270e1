"""What is told of a job: the same keys in the same order for an answer and for an error, and which error it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.batch.parts import LOADED, MAKING, STATS, answer, bad, job
from vllava_cli.batch.jobs import FIRST_KEYS
from vllava_cli.batch.rows import COLUMNS, About, ErrorKind, Fault, Outcome, is_row, row_of
from vllava_cli.errors import (
    CheckpointError,
    ContextError,
    MediaError,
    MemoryShortError,
    OverflowedError,
    UsageError,
    VllavaError,
)
from vllava_cli.nouns import Sampling

ABOUT = About(model="demo", revision="abc")
YES_OR_NO = replace(ABOUT, choices=("yes", "no"))


def test_the_row_of_an_answer_has_every_key_in_order() -> None:
    said = answer(stats=replace(STATS, stray_tokens=2))
    outcome = Outcome(
        job=replace(job(id="7"), size=1234, mtime_ns=5),
        answer=said,
        times_s=(0.0, 1 / 3),
        seconds=1.23456,
        precision="fp32",
        making=MAKING,
    )
    assert list(row_of(outcome, ABOUT).items()) == [
        ("id", "7"),
        ("path", "a.mp4"),
        ("question", "Why?"),
        ("answer", "A dog."),
        ("stop_reason", "end"),
        ("frame_times_s", [0.0, 0.3333]),
        ("model", "demo"),
        ("revision", "abc"),
        ("precision", "fp32"),
        ("seconds", 1.2346),
        ("error", None),
        ("stray", 2),
        ("seed", 7),
        ("clip_state", {"bytes": 1234, "mtime_ns": 5}),
        ("made_with", MAKING.row()),
    ]


def test_the_row_of_an_error_has_the_same_keys() -> None:
    assert list(row_of(bad(job(id="7"), "missing"), ABOUT).items()) == [
        ("id", "7"),
        ("path", "a.mp4"),
        ("question", "Why?"),
        ("answer", None),
        ("stop_reason", None),
        ("frame_times_s", None),
        ("model", "demo"),
        ("revision", "abc"),
        ("precision", None),
        ("seconds", 0.0),
        ("error", {"kind": "missing", "message": "It is missing."}),
        ("stray", None),
        ("seed", None),
        ("clip_state", None),
        ("made_with", None),
    ]


def test_a_row_names_a_seed_only_where_one_was_used() -> None:
    greedy = replace(MAKING, sampling=Sampling(seed=7))
    choosing = replace(MAKING, sampling=Sampling(temperature=0.5, seed=7, choices=("yes", "no")))
    for making in (greedy, choosing):
        assert row_of(Outcome(job=job(), answer=answer(), making=making), ABOUT)["seed"] is None


def test_what_an_answer_was_made_with_takes_less_than_a_kilobyte() -> None:
    long = replace(MAKING, loaded=replace(LOADED, quantisation="bitsandbytes nf4, compute bf16"))
    assert len(json.dumps(long.row())) < 1024


def test_probabilities_come_with_choices_and_are_null_in_an_error() -> None:
    chosen = Outcome(job=job(), answer=answer("yes", probabilities=(0.75, 0.25)))
    assert list(row_of(chosen, YES_OR_NO).items())[len(COLUMNS) :] == [("probabilities", {"yes": 0.75, "no": 0.25})]
    assert row_of(bad(), YES_OR_NO)["probabilities"] is None
    assert "probabilities" not in row_of(chosen, ABOUT)


def test_further_fields_of_a_job_stand_behind_everything_else() -> None:
    row = row_of(Outcome(job=job(question_id=3, job_answer="cat"), answer=answer()), YES_OR_NO)
    assert list(row.items())[-2:] == [("question_id", 3), ("job_answer", "cat")]
    assert list(row)[-3] == "probabilities"


def test_a_row_of_a_batch_is_told_from_other_objects() -> None:
    row = row_of(Outcome(job=job(id="0" * 32), answer=answer()), ABOUT)
    assert is_row(row)
    assert is_row({**row, "further": 1})
    assert not is_row({**row, "id": "7"})
    for column in FIRST_KEYS:
        assert not is_row({key: value for key, value in row.items() if key != column})


def test_a_row_of_an_older_version_is_one() -> None:
    assert is_row(
        {
            "id": "7c0d0b1f6e7c4a0fb6b3f0c6a1d2e3f4",
            "path": "clips/red-circle-moves-left.mp4",
            "question": "What happens in this video?",
            "answer": "A red circle moves left.",
            "stop_reason": "end",
            "frame_times_s": [0.0, 0.2917, 0.625, 0.9167, 1.25, 1.5417, 1.875, 2.1667],
            "model": "demo",
            "revision": None,
            "precision": "fp32",
            "seconds": 0.1234,
            "error": None,
        }
    )


def test_what_keeps_a_clip_from_being_read_has_a_kind(tmp_path: Path) -> None:
    here, gone = tmp_path / "here.mp4", tmp_path / "gone.mp4"
    here.write_bytes(b"not a video")
    damaged = MediaError("It is damaged.")
    assert Fault.of_clip(damaged, here) == Fault(kind="unreadable", message="It is damaged.")
    assert Fault.of_clip(damaged, gone) == Fault(kind="missing", message="It is damaged.")
    assert Fault.of_clip(UsageError("--start is late."), here) == Fault(kind="trim", message="--start is late.")


@pytest.mark.parametrize("name", ["x" * 300 + ".mp4", "a\0.mp4", "here.mp4/inner.mp4"])
def test_a_name_that_no_file_can_have_is_missing(name: str, tmp_path: Path) -> None:
    (tmp_path / "here.mp4").touch()
    assert Fault.of_clip(MediaError("No."), tmp_path / name).kind == "missing"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("first\nlast"), "RuntimeError: last"),
        (KeyError("width"), "KeyError: 'width'"),
        (ValueError(), "ValueError"),
        (ValueError(" \n"), "ValueError"),
    ],
)
def test_our_own_bug_is_told_with_its_type_on_one_line(error: Exception, message: str) -> None:
    assert Fault.of_clip(error, Path("a.mp4")) == Fault(kind="bug", message=message)
    assert Fault.of_question(error) == Fault(kind="bug", message=message)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ContextError("Too long."), "context"),
        (MemoryShortError("Too much."), "memory"),
        (OverflowedError("Infinite."), "overflow"),
        (UsageError("Empty."), "question"),
    ],
)
def test_what_keeps_a_question_from_being_answered_has_a_kind(error: VllavaError, kind: ErrorKind) -> None:
    assert Fault.of_question(error) == Fault(kind=kind, message=str(error))


def test_a_fault_that_no_question_should_meet_keeps_its_sentence() -> None:
    assert Fault.of_question(CheckpointError("It is torn.")) == Fault(kind="bug", message="It is torn.")
