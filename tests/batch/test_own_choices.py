"""Jobs with choices of their own, and about parts of clips: rows, tables and replay, wherever they are answered."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.batch.conftest import by_id, rows_of
from tests.batch.fork_server import Zygote
from tests.batch.parts import ABOUT, answer, batch_of, job
from tests.engine.engines import ask, engine_of
from tests.refusals import refused
from tests.server.found import environment_for
from tests.server.serving import Served
from vllava_cli import demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.batch.executors.ray_actors import clip_jobs_in, manifest_row
from vllava_cli.batch.job_checks import check_choices, choice_faults, with_own_names
from vllava_cli.batch.jobs import ClipJobs, JobRequest, group_by_clip, make_jobs
from vllava_cli.batch.request import Inputs
from vllava_cli.batch.rows import Result, check_fields, columns_of, row_of
from vllava_cli.engine.generate import Engine
from vllava_cli.errors import UsageError
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Framing, Window, Windowing

CIRCLE, SQUARE, STAR = "red-circle-moves-left.mp4", "green-square-then-yellow-triangle.mp4", "yellow-star.png"
JOBS: list[dict[str, Any]] = [
    {
        "video": CIRCLE,
        "question": "Which way does it move?",
        "choices": ["right", "left", "up, then down"],
    },
    {"video": CIRCLE, "question": "Which way does it move?", "choices": ["left", "right"], "answer": "left"},
    {"video": CIRCLE, "question": "What is it?", "choices": ["A blue star.", "A red circle."]},
    {"video": SQUARE, "question": "What shape is it?", "choices": ["a square", "a triangle"], "start": 0, "end": 0.5},
    {"video": SQUARE, "question": "What shape is it?", "choices": ["a square", "a triangle"], "start": 2, "end": 2.5},
    {"video": SQUARE, "question": "What comes first?", "title": "of the job"},
    {"video": STAR, "question": "What shape is it?", "choices": ["star", "circle"]},
]
BAD: list[dict[str, Any]] = [
    {"video": STAR, "question": "What shape is it?", "choices": ["star", "circle"], "start": 0, "end": 1},
    {"video": SQUARE, "question": "Why?", "choices": ["fun", "rain"], "start": 99, "end": 100},
]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return engine_of(demo.CHECKPOINT)


def answered(vllava: Zygote, folder: Path, name: str, *words: str, bad: int = 0, **environment: str) -> list[Row]:
    """The rows of JOBS, and of the first of the BAD ones, in their order."""
    jobs, out = folder / "jobs.jsonl", folder / f"{name}.jsonl"
    jobs.write_text("".join(json.dumps(each) + "\n" for each in JOBS + BAD[:bad]))
    line = ("batch", "--model", "demo", "--precision", "fp32", "--jobs", jobs, "--videos", demo.CLIPS, "-o", out)
    done = vllava.run(*line, *words, folder=folder, environment=environment)
    assert done.code == (1 if bad else 0), done.err
    found = by_id(rows_of(out)).values()
    keys = [(each["video"], each["question"], each.get("choices"), each.get("start")) for each in JOBS + BAD[:bad]]
    return sorted(
        found,
        key=lambda row: keys.index((Path(row["path"]).name, row["question"], row.get("choices"), row.get("start_s"))),
    )


def alone(engine: Engine, given: Row, *, style: str = "text", is_calibrated: bool = False) -> tuple[str, Any]:
    """The answer to a job by itself, and its probabilities by the text or letter that was scored."""
    texts, question = given.get("choices", []), given["question"]
    scored = [letter for letter, _ in zip("ABC", texts, strict=False)] if style == "letter" else texts
    if style == "letter" and texts:
        lines = [f"{letter}. {text}" for letter, text in zip(scored, texts, strict=True)]
        question = "\n".join([question, *lines, "Answer with the option's letter from the given choices directly."])
    frames = sample(demo.CLIPS / given["video"], Framing(start_s=given.get("start"), end_s=given.get("end")))
    engine.prompt_cache = None
    sampling = Sampling(choices=tuple(scored), is_calibrated=is_calibrated)
    said = ask(engine, Conversation(attached=(frames,)), question, sampling)
    return said.text, dict(zip(scored, said.probabilities, strict=True))


STYLES = pytest.mark.parametrize(
    ("words", "manner"),
    [
        ((), {}),
        (("--calibrate", "--batch-size", "3"), {"is_calibrated": True}),
        (("--choice-style", "letter"), {"style": "letter"}),
        (("--gpus", "cpu,cpu", "--choice-style", "letter"), {"style": "letter"}),
    ],
    ids=["text", "calibrated", "letter", "two processes"],
)


@STYLES
def test_each_job_is_answered_from_its_own_choices_as_if_it_were_alone(
    vllava: Zygote, engine: Engine, tmp_path: Path, words: tuple[str, ...], manner: Any
) -> None:
    rows = answered(vllava, tmp_path, "rows", *words, "--server", "off")
    for given, row in zip(JOBS, rows, strict=True):
        text, chances = alone(engine, given, **manner)
        assert (row["answer"], row["question"]) == (text, given["question"])
        assert row.get("choices") == given.get("choices")
        assert (row.get("probabilities") or {}) == pytest.approx(chances, abs=2e-6)
        assert list(row.get("probabilities") or {}) == list(chances)
        assert row["made_with"].get("choice_style") == (manner.get("style") if chances else None)
        assert (row.get("start_s"), row.get("end_s")) == (given.get("start"), given.get("end"))
        assert (row.get("job_title"), row.get("job_answer")) == (given.get("title"), given.get("answer"))
    assert rows[3]["frame_times_s"][-1] < 0.5 < 2 <= rows[4]["frame_times_s"][0]
    assert vllava.run("replay", tmp_path / "rows.jsonl", folder=tmp_path).out.count(": same\n") == len(JOBS)


def test_a_server_and_samples_that_agree_know_them(vllava: Zygote, demo_served: Served, tmp_path: Path) -> None:
    found = environment_for(demo_served, tmp_path / "run")
    by_server = answered(vllava, tmp_path, "served", "--agree", "3", **found)
    here = answered(vllava, tmp_path, "here", "--agree", "3", "--server", "off")
    for served, row in zip(by_server, here, strict=True):
        assert (served.pop("probabilities", None) or {}) == pytest.approx(
            row.pop("probabilities", None) or {}, abs=1e-4
        )
        assert served == row
        if row.get("choices"):
            assert row["answer"] in row["choices"]
            assert set(row["agreement"]["answers"] if row["agreement"] else ()) <= set(row["choices"])
    assert vllava.run("replay", tmp_path / "here.jsonl", folder=tmp_path).out.count(": same\n") == len(JOBS)


def test_a_part_that_a_clip_lacks_is_an_error_of_its_own_and_all_is_done_by_the_next_run(
    vllava: Zygote, tmp_path: Path
) -> None:
    words = ("--format", "csv", "--fields", "path,answer,probabilities.star,choices,start_s,error.kind,error.message")
    rows = answered(vllava, tmp_path, "rows", "--server", "off", bad=2)
    assert [row["error"] for row in rows[-2:]] == [
        {
            "kind": "trim",
            "message": f"'{demo.CLIPS / STAR}' is an image, which has no parts. Leave the times of its jobs out.",
        },
        {
            "kind": "trim",
            "message": f"start 99 s is past the end of '{demo.CLIPS / SQUARE}', which lasts 2.50 s. Start earlier.",
        },
    ]
    line = ("batch", "--model", "demo", "--precision", "fp32", "--jobs", "jobs.jsonl", "--videos", demo.CLIPS)
    again = vllava.run(*line, "-o", "rows.jsonl", "--server", "off", folder=tmp_path)
    assert "done before" in again.err and "again" in again.err
    table = vllava.run(*line, "--server", "off", *words, folder=tmp_path)
    (star,) = (row for row in csv.DictReader(table.out.splitlines()) if row["path"].endswith(STAR) and row["answer"])
    assert (star["answer"], star["choices"], star["start_s"]) == ("star", '["star","circle"]', "")
    assert 0.5 < float(star["probabilities.star"]) < 1


REQUEST = JobRequest(path="a.mp4", question="Why?")
CHOSEN = replace(REQUEST, choices=("fun", "rain"), window=Window(start_s=1.0, end_s=2.5))


def test_what_a_job_has_of_its_own_is_part_of_its_id_and_others_keep_theirs() -> None:
    requests = [REQUEST, replace(CHOSEN, window=None), replace(CHOSEN, choices=("rain", "fun")), CHOSEN, CHOSEN]
    ids = [each.id for each in make_jobs(requests, "settings")]
    assert ids[0] == "be3b842efa3396b49c097cc95eda87fc", "as before jobs had choices"
    assert len(set(ids)) == 5


def test_what_a_job_has_of_its_own_reaches_the_machines_of_a_cluster() -> None:
    fields = {"meta": {"a": [1, None]}}
    jobs = make_jobs([replace(CHOSEN, fields=fields), replace(CHOSEN, question="Who?"), REQUEST], "settings")
    clips = list(group_by_clip(jobs))
    assert [len(clip.jobs) for clip in clips] == [2, 1]
    assert [clip_jobs_in(manifest_row(clip)) for clip in clips] == clips


def test_choices_that_all_jobs_share_are_named_where_letters_stand_for_them() -> None:
    info = replace(ABOUT, choices=("yes", "no"), has_letters=True)
    row = row_of(Result(job=job(), answer=answer("A", probabilities=(0.75, 0.25))), info)
    assert (row["probabilities"], row["choices"]) == ({"A": 0.75, "B": 0.25}, ["yes", "no"])
    assert columns_of([], info)[-2:] == ("probabilities", "choices")
    plain = replace(info, has_letters=False)
    assert "choices" not in columns_of([], plain)
    jobs = make_jobs([CHOSEN], "settings")
    assert columns_of(jobs, ABOUT)[-5:] == ("probabilities", "choices", "start_s", "end_s", "title")
    check_fields(("probabilities.fun", "choices"), jobs, ABOUT)
    check_fields(("probabilities.B",), jobs, replace(ABOUT, has_letters=True))
    assert "probabilities.A" in refused(UsageError, check_fields, ("probabilities.A",), jobs, ABOUT)


LETTERS = batch_of(has_letters=True)


@pytest.mark.parametrize(
    ("batch", "jobs", "message"),
    [
        (
            LETTERS,
            [job()],
            "--choice-style letter needs choices, and no job has any: add --choices, or leave it out.",
        ),
        (
            batch_of(sampling=Sampling(is_calibrated=True)),
            [job()],
            "--calibrate needs choices, and no job has any: add --choices, or leave it out.",
        ),
        (
            replace(LETTERS, sampling=Sampling(choices=tuple(map(str, range(27))))),
            [job()],
            "--choice-style letter has 26 letters, and there are 27 choices: give fewer.",
        ),
    ],
)
def test_an_option_about_choices_needs_some(batch: Any, jobs: list[Any], message: str) -> None:
    assert refused(UsageError, check_choices, batch, jobs) == message
    check_choices(replace(batch, sampling=replace(batch.sampling, choices=("yes", "no"))), jobs)


def test_choices_that_the_model_reads_alike_are_told_before_the_weights_are_read(engine: Engine) -> None:
    jobs = make_jobs(
        [REQUEST, CHOSEN, *(replace(CHOSEN, choices=("</s>", "< /s>"), question=f"{n}?") for n in "12")], ""
    )
    fault = "To the model, the choices '</s>' and '< /s>' are the same: leave one out."
    assert choice_faults(engine.tokens, jobs, batch_of()) == (
        f"vllava: the choices of 2 jobs can't be compared, as those of '1?' about 'a.mp4': {fault}"
    )
    assert choice_faults(engine.tokens, jobs[:2], batch_of()) == choice_faults(engine.tokens, jobs, LETTERS) == ""
    shared = batch_of(sampling=Sampling(choices=("</s>", "< /s>")))
    assert refused(UsageError, choice_faults, engine.tokens, [], shared) == fault


def test_a_part_is_not_divided_again() -> None:
    batch = batch_of(inputs=Inputs(jobs=Path("jobs.jsonl")), windowing=Windowing(by="scenes"))
    assert refused(UsageError, with_own_names, [REQUEST, CHOSEN], batch) == (
        "--scenes divides whole clips, and a job is about a part of 'a.mp4'. "
        "Leave --scenes out, or the times of the jobs."
    )
    taken = replace(CHOSEN, fields={"choices": 1, "title": "t", "type": "x"})
    (found,) = with_own_names([taken], replace(batch, windowing=None))
    assert found.fields == {"job_choices": 1, "job_title": "t", "type": "x"}


def test_the_part_of_a_job_takes_the_place_of_that_of_the_run() -> None:
    clip = ClipJobs(jobs=tuple(make_jobs([CHOSEN], "settings")))
    for whole in (Framing(start_s=5, end_s=6), Framing(at_s=(3.0,)), Framing(fit="pad")):
        assert clip.framing(whole) == Framing(start_s=1.0, end_s=2.5, fit=whole.fit)
