"""A job's id is the same in every run that asks the same of the same file; the list of a shard says which it has."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path

import pytest

from tests.batch.parts import job
from tests.refusals import refused
from vllava_cli.answers import Agreeing, Sampling
from vllava_cli.batch.jobs import (
    ClipJobs,
    Job,
    JobList,
    JobRequest,
    Shard,
    group_by_clip,
    has_changed,
    id_of,
    make_jobs,
    settings_of,
    signature,
)
from vllava_cli.errors import OutputError
from vllava_cli.media.timeline.spoken import Passage
from vllava_cli.nouns import Adapter, Framing, Window, Wishes

SIGNATURE = signature("demo", None, {})


pytestmark = pytest.mark.usefixtures("in_a_folder")


def written(name: str, data: bytes = b"clip", mtime_ns: int = 1_000_000_007) -> str:
    Path(name).write_bytes(data)
    os.utime(name, ns=(0, mtime_ns))
    return name


def asked(path: str, question: str = "Why?") -> JobRequest:
    return JobRequest(path=path, question=question)


def job_of(path: str, question: str = "Why?", signature: str = SIGNATURE) -> Job:
    (job,) = make_jobs([asked(path, question)], signature)
    return job


def test_a_subtitle_file_changes_the_id_only_where_subtitles_are_read() -> None:
    clip, asked_for = written("a.mp4"), replace(asked("a.mp4"), fields={"subs": 1})
    plain = job_of(clip)
    written("a.srt", b"1")

    def job(beside: str | None) -> Job:
        (made,) = make_jobs([asked_for], SIGNATURE, lambda _: beside)
        assert made.id == made.id_at(made.state, SIGNATURE)
        return made

    with_file, without = job("a.srt"), job(None)
    assert (with_file.sidecar, without.sidecar) == (("a.srt", 1, 1_000_000_007), ("", -1, -1))
    assert (plain.sidecar, with_file.fields, plain.id) == (None, {"job_subs": 1}, job_of(clip).id)
    written("a.srt", b"2", mtime_ns=5)
    assert len({plain.id, with_file.id, without.id, job("a.srt").id}) == 4
    passage = ClipJobs(jobs=(with_file,)).passage(Framing(start_s=1))
    assert passage == Passage(sidecar=Path("a.srt"), start_s=1, end_s=math.inf)
    held = Window(start_s=2, end_s=3, is_held=True)
    assert ClipJobs(jobs=(replace(without, window=held),)).passage(Framing()) == Passage(
        sidecar=None, start_s=2, end_s=3
    )
    assert ClipJobs(jobs=(plain,)).passage(Framing()) is None


def test_a_job_is_what_was_wanted_and_what_the_file_is() -> None:
    wanted = JobRequest(path=written("a.mp4"), question="Why?", fields={"question_id": 3})
    spelled = b'16:["demo",null,{}]5:a.mp41:410:10000000074:Why?'
    assert make_jobs([wanted], SIGNATURE) == [
        Job(
            id=hashlib.sha256(spelled).hexdigest()[:32],
            path="a.mp4",
            question="Why?",
            size=4,
            mtime_ns=1_000_000_007,
            fields={"question_id": 3},
        )
    ]


@pytest.mark.parametrize("path", ["gone.mp4", "file/a.mp4", "nul\0.mp4", "n" * 300, os.fsdecode(b"\xff.mp4"), "loop"])
def test_a_missing_file_is_a_job_without_a_size(path: str) -> None:
    written("file")
    Path("loop").symlink_to("loop")
    job = job_of(path)
    assert (job.path, job.size, job.mtime_ns) == (path, -1, -1)


def test_whatever_a_job_is_about_changes_its_id() -> None:
    written("b.mp4")
    before = job_of(written("a.mp4"))
    others = [job_of("b.mp4"), job_of("a.mp4", "why?"), job_of("a.mp4", signature=signature("demo", "main", {}))]
    others += [job_of(written("a.mp4", b"clips")), job_of(written("a.mp4", mtime_ns=1_000_000_008))]
    assert len({before.id, *(job.id for job in others)}) == 6
    assert job_of(written("a.mp4")) == before
    alike = [("a", "-1b"), ("a-1", "b"), ("a", "b"), ("a", "b"), ("a", "b1"), ("", "ab")]
    jobs = make_jobs([asked(path, question) for path, question in alike], SIGNATURE)
    assert len({job.id for job in jobs}) == 6, "parts that are written alike together are the same"


def test_equal_jobs_have_ids_of_their_own_which_are_the_same_in_each_run() -> None:
    wanted = [asked("a"), asked("b"), asked("a"), asked("a")]
    first, second = make_jobs(wanted, SIGNATURE), make_jobs(wanted, SIGNATURE)
    assert first == second
    assert len({job.id for job in first}) == 4
    assert first[0] == job_of("a")
    assert make_jobs(wanted[2:], SIGNATURE) == [first[0], first[2]]


def test_a_path_is_written_one_way_and_stays_the_way_that_leads_there() -> None:
    written("a.mp4")
    for path in ("./a.mp4", "a.mp4", "a.mp4/", ".//a.mp4", "./././a.mp4", "a.mp4/."):
        assert job_of(path) == job_of("a.mp4")
    for path, plain in (("x//y", "x/y"), ("x/./y", "x/y"), ("x/../y", "x/../y"), (".x", ".x")):
        assert job_of(path).path == plain


def test_a_file_is_looked_at_once() -> None:
    def changing() -> Iterator[JobRequest]:
        yield asked(written("a.mp4", b"old"), "Who?")
        yield asked(written("a.mp4", b"newer"), "Why?")

    assert [job.size for job in make_jobs(changing(), SIGNATURE)] == [3, 3], "a file was looked at twice"


def test_a_job_knows_that_its_file_has_changed() -> None:
    job, missing = job_of(written("a.mp4")), job_of("b.mp4")
    assert [has_changed(job), has_changed(missing)] == [False, False]
    written("a.mp4", b"other")
    written("b.mp4")
    assert [has_changed(job), has_changed(missing)] == [True, True]
    written("a.mp4", mtime_ns=1_000_000_008)
    assert has_changed(job)
    Path("a.mp4").unlink()
    assert has_changed(job)


SAMPLED = Sampling(temperature=0.5)
CHOSEN = Sampling(choices=("yes", "no"))
MATTERS: list[tuple[Wishes | Framing | Sampling, dict[str, object]]] = [
    *((Wishes(), change) for change in ({"precision": "fp32"}, {"attention": "eager"})),
    *((Framing(), change) for change in ({"start_s": 0.5}, {"end_s": 2.0}, {"at_s": (1.0,)}, {"fit": "pad"})),
    (Framing(), {"background": "#000000"}),
    (Framing(), {"is_as_stored": True}),
    (Framing(), {"pick": "scenes"}),
    (Framing(), {"shift": 0.2}),
    *((Sampling(), change) for change in ({"max_new_tokens": 9}, {"temperature": 0.5}, {"has_guard": False})),
    (Sampling(), {"is_calibrated": True}),
    *((SAMPLED, change) for change in ({"top_p": 0.9}, {"seed": 3}, {"choices": ("yes",)})),
    *((CHOSEN, change) for change in ({"choices": ("no", "yes")}, {"is_calibrated": True}, {"blank_choice": "no"})),
]
IS_ALL_THE_SAME: list[tuple[Wishes | Framing | Sampling, dict[str, object]]] = [
    (Wishes(), {"device": "cuda:1"}),
    *((Sampling(), change) for change in ({"top_p": 0.9}, {"seed": 3})),
    *((CHOSEN, change) for change in ({"max_new_tokens": 9}, {"temperature": 0.5}, {"has_guard": False}, {"seed": 3})),
]


def settings(noun: Wishes | Framing | Sampling) -> str:
    """The settings with that noun in its place, as they get into an id."""
    wishes = noun if isinstance(noun, Wishes) else Wishes()
    framing = noun if isinstance(noun, Framing) else Framing()
    sampling = noun if isinstance(noun, Sampling) else Sampling()
    return signature("m", None, settings_of(wishes, framing, sampling))


def test_settings_count_if_they_change_an_answer_and_none_was_forgotten() -> None:
    for noun, change in MATTERS:
        assert settings(replace(noun, **change)) != settings(noun)
    for noun, change in IS_ALL_THE_SAME:
        assert settings(replace(noun, **change)) == settings(noun)
    assert signature("m", "r", {"b": (2.5,), "a": 1}) == '["m","r",{"a":1,"b":[2.5]}]'
    apart = {"model", "revision", "adapter"}
    tried = {name for _, change in MATTERS + IS_ALL_THE_SAME for name in change}
    assert tried == {field.name for noun in (Wishes, Framing, Sampling) for field in fields(noun)} - apart


def test_an_adapter_counts_by_its_content_and_without_it_or_agreeing_ids_are_as_before() -> None:
    plain = settings_of(Wishes(), Framing(), Sampling())
    first, second = (Adapter(name="a", folder=Path("a"), revision=None, sha256=digest) for digest in ("00", "01"))
    assert plain.keys() == {"precision", "attention", "framing", "sampling"}
    assert settings_of(Wishes(), Framing(), Sampling(), first) == plain | {"adapter": "00"}
    assert settings_of(Wishes(), Framing(), Sampling(), replace(first, name="b", folder=Path("b"))) == plain | {
        "adapter": "00"
    }
    assert settings_of(Wishes(), Framing(), Sampling(), second) == plain | {"adapter": "01"}
    wanted = Agreeing(samples=3, least_share=0.5)
    assert settings_of(Wishes(), Framing(), Sampling(), agreeing=wanted) == plain | {
        "agree": {"samples": 3, "least_share": 0.5}
    }


def test_each_job_is_in_one_shard() -> None:
    ids = [job.id for job in make_jobs((asked(str(number)) for number in range(200)), SIGNATURE)]
    parts = [Shard(number=number, of=3) for number in (1, 2, 3)]
    assert [[part.has(id) for part in parts].count(True) for id in ids] == [1] * 200
    assert all(any(part.has(id) for id in ids) for part in parts)
    assert parts[1].has("0" * 31 + "4")


def test_clips_come_in_the_order_of_their_first_job_with_all_theirs() -> None:
    jobs = [job("b.mp4", "1"), job("a.mp4", "2"), job("b.mp4", "3")]
    assert list(group_by_clip(iter(jobs))) == [
        ClipJobs(jobs=(jobs[0], jobs[2])),
        ClipJobs(jobs=(jobs[1],)),
    ]
    assert list(group_by_clip([])) == []


PATH = Path("a.jsonl.jobs")
AGAIN = "Run that shard of vllava batch again."


HEADER = {"type": "jobs", "shard": 1, "of": 2, "jobs": 2, "all_jobs": 10, "checksum": "0" * 32}
ENTRY = {"id": "0" * 32, "path": "a.mp4", "question": "Why?"}
UNSAID = "its first row doesn't describe a list of jobs"
CHANGES: list[dict[str, object]] = [
    *({"type": "session"}, {"shard": 0}, {"shard": 3}, {"shard": True}, {"of": "2"}, {"jobs": -1}, {"jobs": 11}),
    *({"all_jobs": None}, {"checksum": 7}),
]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        *(([HEADER | change, ENTRY, ENTRY], UNSAID) for change in CHANGES),
        *(([HEADER, ENTRY, ENTRY | {key: 7}], "line 3 is not a job") for key in ENTRY),
        ([HEADER, ENTRY], "it has 1 job instead of 2"),
        ([HEADER, ENTRY, ENTRY, ENTRY], "it has 3 jobs instead of 2"),
    ],
)
def test_a_damaged_list_is_refused(rows: list[dict[str, object]], fault: str) -> None:
    PATH.write_text("".join(json.dumps(row) + "\n" for row in rows))
    message = refused(OutputError, lambda: list(JobList.read(PATH).listed()))
    assert message == f"'a.jsonl.jobs' can't be used as a list of jobs: {fault}. {AGAIN}"


def test_what_is_not_32_hex_digits_is_no_id() -> None:
    for id in (None, 7, "", "0" * 31, "0" * 33, "g" * 32, "00 " * 10 + "00", "\uff10" * 32, [0] * 32):
        assert id_of({"id": id}) is None
    assert id_of({}) is None
