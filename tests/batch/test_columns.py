"""Which columns the rows of a run have, and which --fields are refused before it."""

from __future__ import annotations

import pytest

from tests.batch.parts import job
from vllava_cli.batch.columns import check_fields, columns_of, table_columns
from vllava_cli.errors import UsageError

PLAIN = (
    *("id", "path", "question", "answer", "stop_reason", "frame_times_s", "model", "revision", "precision"),
    *("seconds", "error", "stray", "seed", "clip_state", "made_with"),
)
JOBS = [job(question_id=1, kind="a"), job(kind="b", **{"meta.data": {"fps": 25}})]


def test_columns_are_those_of_all_rows_and_then_each_further_field_once() -> None:
    assert columns_of(JOBS, ()) == (*PLAIN, "question_id", "kind", "meta.data")
    assert columns_of([], ("yes", "no")) == (*PLAIN, "probabilities")


def test_a_table_has_the_object_only_where_it_is_named() -> None:
    assert table_columns(JOBS, ("yes", "no")) == (*PLAIN[:-2], "probabilities", "question_id", "kind", "meta.data")


def test_a_table_has_the_bytes_of_paths_only_where_one_is_not_utf8() -> None:
    odd = job("caf\udce9.mp4", split="test")
    assert table_columns([odd, job("b.mp4")], ()) == ("id", "path", "path_bytes", *PLAIN[2:-2], "split")


@pytest.mark.parametrize(
    "field",
    [
        *("path", "error", "error.kind", "error.message", "question_id", "kind.of", "meta.data", "meta.data.fps"),
        *("probabilities", "probabilities.yes", "probabilities.a.b"),
        *("made_with", "made_with.device", "made_with.clips", "made_with.versions.torch", "made_with.sampling.top_p"),
        *("path_bytes", "clip_state", "clip_state.bytes"),
    ],
)
def test_fields_that_a_row_may_have_are_accepted(field: str) -> None:
    check_fields(("id", field), JOBS, ("yes", "a.b"))


@pytest.mark.parametrize(
    "field",
    [
        "anwser",
        "error.knd",
        "error.kind.of",
        "probabilities.no",
        "meta",
        "meta.fps",
        "PATH",
        ".",
        "path.",
        "",
        "made_with.devic",
    ],
)
def test_fields_that_would_be_empty_in_every_row_are_refused(field: str) -> None:
    if field == "path.":
        check_fields((field,), JOBS, ())  # a path has no inside, but only a look at each value could tell
        return
    with pytest.raises(UsageError) as caught:
        check_fields(("id", field), JOBS, ("yes", "a.b"))
    assert str(caught.value) == (
        f"--fields names {field!r}, which no row has. Rows have {', '.join(PLAIN)}, probabilities, question_id, kind, "
        "meta.data."
    )


def test_probabilities_come_with_choices_alone() -> None:
    with pytest.raises(UsageError, match="'probabilities', which no row has"):
        check_fields(("probabilities",), JOBS, ())


def test_without_jobs_nobody_knows_their_fields() -> None:
    check_fields(("question_id",), [], ())
