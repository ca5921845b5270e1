"""Jobs by clips: one decode for all questions about a clip, one answer for all that ask the same."""

from __future__ import annotations

from tests.batch.parts import job, unit
from vllava_cli.batch.clip_jobs import Unit, units_of


def test_clips_come_in_the_order_of_their_first_job_with_all_theirs() -> None:
    jobs = [job("b.mp4", "1"), job("a.mp4", "2"), job("b.mp4", "3")]
    assert units_of(iter(jobs)) == [
        Unit(jobs=(jobs[0], jobs[2])),
        Unit(jobs=(jobs[1],)),
    ]
    assert units_of([]) == []


def test_a_question_that_is_asked_twice_is_one_with_two_jobs() -> None:
    one, two, again = job(question="Why?", id="1"), job(question="Who?", id="2"), job(question="Why?", id="3")
    both = Unit(jobs=(one, two, again))
    assert both.questions() == [("Why?", (one, again)), ("Who?", (two,))]


def test_questions_that_differ_only_in_spaces_are_different_ones() -> None:
    assert [asked for asked, _ in unit("a.mp4", "Why?", "Why? ").questions()] == ["Why?", "Why? "]
