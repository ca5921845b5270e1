"""The output of a search, without a model: rows that come in any order, still windows, names at a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from vllava_cli.batch.jobs import ClipJobs, Job, JobRequest, make_jobs
from vllava_cli.batch.rows import RunInfo
from vllava_cli.nouns import Window, Windowing, Wishes
from vllava_cli.screen import Screen
from vllava_cli.search.answer_store import AnswerStore
from vllava_cli.search.hit_output import HitOutput
from vllava_cli.search.manner import Manner
from vllava_cli.search.query import SearchRequest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Trial:
    """A search for one thing in windows of some files: "a" has three of them, "b" one."""

    def __init__(self, manner: Manner, *, still: Sequence[int] = (), out: io.StringIO | None = None) -> None:
        windows = [Window(start_s=at, end_s=at + 1, is_still=at in still) for at in range(3)]
        places = [("a", window) for window in windows] + [("b", windows[0])]
        self.jobs = make_jobs([JobRequest(path=path, question="q?", window=window) for path, window in places], "")
        search = SearchRequest(
            queries=("q?",), paths=(), wishes=Wishes(), windowing=Windowing(every_s=1), manner=manner
        )
        self.text, self.told = out or io.StringIO(), io.StringIO()
        screen = Screen(out=self.text, err=self.told)
        info = RunInfo(model="m", revision=None)
        self.out = HitOutput(search, info, screen, store=AnswerStore(None), digests={})
        self.out.prepare(self.jobs, self.jobs, is_dry=False)

    def put(self, job: Job, score: float | None) -> None:
        error = None if score is not None else {"kind": "bug", "message": "It failed."}
        probabilities = {"Yes": score, "No": 1 - score} if score is not None else None
        facts: dict[str, Any] = {"frame_times_s": [0.0], "precision": "fp32", "probabilities": probabilities}
        self.out.put({"id": job.id, "error": error, **facts})

    @property
    def lines(self) -> list[str]:
        return self.text.getvalue().splitlines()


SCORES = (0.9, 0.2, 0.8, 0.7)
ALL = ["a:00:00:00-00:00:01  0.90", "a:00:00:02-00:00:03  0.80", "b:00:00:00-00:00:01  0.70"]


@pytest.mark.parametrize(
    ("manner", "expected"),
    [
        (Manner(), ALL),
        (Manner(most_hits=1), [ALL[0], ALL[2]]),
        (Manner(is_first_only=True), ALL[:1]),
        (Manner(form="counts"), ["a:2", "b:1"]),
        (Manner(form="names"), ["a", "b"]),
        (Manner(order="score", threshold=0.1), [ALL[0], ALL[1], ALL[2], "a:00:00:01-00:00:02  0.20"]),
        (Manner(unsure=(0.1, 0.8)), [ALL[0], "a:00:00:01-00:00:02  0.20 ?", ALL[1], f"{ALL[2]} ?"]),
    ],
)
def test_whatever_comes_first_the_output_is_the_same(manner: Manner, expected: list[str]) -> None:
    for order in permutations(range(4)):
        trial = Trial(manner)
        for number in order:
            trial.put(trial.jobs[number], SCORES[number])
        trial.out.finish(trial.jobs)
        assert trial.lines == expected, order


def test_a_hit_is_printed_once_all_before_it_is_known() -> None:
    trial = Trial(Manner())
    seen = []
    for number in (3, 2, 0, 1):
        trial.put(trial.jobs[number], SCORES[number])
        seen.append(len(trial.lines))
    assert seen == [0, 0, 1, 3]


def test_what_is_not_wanted_any_more_is_not_asked() -> None:
    trial = Trial(Manner(most_hits=1))
    trial.put(trial.jobs[0], 0.9)
    assert [trial.out.is_done(job) for job in trial.jobs] == [True, True, True, False]
    assert [trial.out.is_wanted(ClipJobs(jobs=(job,))) for job in trial.jobs] == [False, False, False, True]
    assert not trial.out.is_full
    silent = Trial(Manner(is_silent=True))
    silent.put(silent.jobs[2], 0.9)
    assert silent.out.is_full and silent.lines == [] and len(silent.out.hits) == 1


@pytest.mark.parametrize(("skips", "asked"), [(True, [0, 3]), (False, [0, 1, 2, 3])])
def test_still_windows_have_the_answer_of_the_one_before(skips: bool, asked: list[int]) -> None:
    trial = Trial(Manner(skips_still=skips), still=(1, 2))
    assert [number for number, job in enumerate(trial.jobs) if not trial.out.is_done(job)] == asked
    for number in asked:
        trial.put(trial.jobs[number], 0.9)
    assert len(trial.lines) == 4
    assert [hit.is_still for hit in trial.out.hits] == [False, skips, skips, False]
    told = (
        "vllava: 2 windows are still: each has the answer of the one before it, and --no-skip-still asks about each.\n"
    )
    assert trial.told.getvalue() == told * skips


def test_a_window_without_an_answer_holds_up_nothing() -> None:
    trial = Trial(Manner())
    for job, score in zip(trial.jobs, (None, 0.9, None, 0.9), strict=True):
        trial.put(job, score)
    assert len(trial.lines) == 2 and trial.out.has_trouble
    assert trial.told.getvalue() == "vllava: 'a': It failed.\n"
    left = Trial(Manner(form="counts"))
    left.put(left.jobs[0], 0.9)
    left.put(left.jobs[3], 0.9)
    left.out.finish(left.jobs)
    assert left.lines == ["b:1"]


def test_a_name_rules_no_terminal() -> None:
    trial = Trial(Manner(), out=Terminal())
    look = trial.out._looks[0]
    look.jobs[0] = replace(look.jobs[0], path="\x1b[31mred\n.mp4")
    trial.put(look.jobs[0], 0.9)
    assert trial.lines == ["[31mred .mp4:00:00:00-00:00:01  0.90"]


def test_the_question_that_is_least_likely_decides_about_a_query() -> None:
    window = Window(start_s=0, end_s=1)
    queries = ("a dog", "a dog barks", "a cat")
    search = SearchRequest(queries=queries, paths=(), wishes=Wishes(), windowing=Windowing(every_s=1))
    questions = search.batch(["a"]).inputs.questions
    assert questions == ("Is there a dog?", "Does the dog bark?", "Is there a cat?")
    jobs = make_jobs([JobRequest(path="a", question=question, window=window) for question in questions], "")
    for manner, expected in (
        (Manner(threshold=0.3), [("a dog", 0, 0.9), ("a dog barks", 1, 0.4)]),
        (Manner(needs_all=True, threshold=0.1), [("a cat", 2, 0.2)]),
        (Manner(is_inverted=True, threshold=0.95), [("a dog", 0, 0.9)]),
        (Manner(is_inverted=True, threshold=0.3), []),
    ):
        asked = replace(search, manner=manner)
        info, screen = RunInfo(model="m", revision=None), Screen(out=io.StringIO(), err=io.StringIO())
        out = HitOutput(asked, info, screen, store=AnswerStore(None), digests={})
        out.prepare(jobs, jobs, is_dry=False)
        for job, score in zip(jobs, (0.9, 0.4, 0.2), strict=True):
            probabilities = {"Yes": score, "No": 1 - score}
            facts = {"frame_times_s": None, "precision": "fp32", "probabilities": probabilities}
            out.put({"id": job.id, "error": None, **facts})
        found = [(hit.query, questions.index(hit.question), hit.score) for hit in out.hits]
        assert found == expected
        assert all(hit.line.endswith(f"  {hit.query}") for hit in out.hits)
