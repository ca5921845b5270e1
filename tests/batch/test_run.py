"""`vllava batch` as its users run it: rows, going on, errors, tables, shards; the demo model answers."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.batch.conftest import by_id, rows_of, until_rows
from tests.batch.fork_server import Zygote

DEMO = ("batch", "--model", "demo")
HAPPENS = "What happens in this video?"
RED = "red-circle-moves-left.mp4"


def linked(clips: Path, count: int) -> None:
    """Gives a clip so many further names, z-000.mp4, …"""
    for number in range(count):
        os.link(clips / "three-shapes.mp4", clips / f"z-{number:03}.mp4")


def answers(rows: list[dict[str, object]]) -> dict[tuple[object, object], object]:
    return {(row["path"], row["question"]): row["answer"] for row in rows}


def test_a_full_disk_is_one_sentence_and_whole_rows_and_the_run_goes_on_later(vllava: Zygote, clips: Path) -> None:
    out = clips.parent / "out.jsonl"
    words = (*DEMO, HAPPENS, ".", "-o", out)
    full = vllava.run(*words, "--quiet", folder=clips, max_bytes=1500)
    assert full.code == 1
    told = r"vllava: '.*out\.jsonl' can't be written: .*\. Free some disk space, or name another file\.\n"
    assert re.fullmatch(told, full.err)
    assert 0 < len(rows_of(out)) < 9
    assert vllava.run(*words, folder=clips).code == 1
    assert len(by_id(rows_of(out))) == 9


def test_a_clip_that_changed_is_answered_anew_and_its_old_row_goes_where_that_is_wanted(
    vllava: Zygote, clips: Path
) -> None:
    out = clips.parent / "out.jsonl"
    words = (*DEMO, HAPPENS, RED, "blue-star-grows.mp4", "--hash", "-o", out)
    assert vllava.run(*words, folder=clips).code == 0
    shutil.copy(clips / "orange-star-moves-up-right.mp4", clips / RED)
    again = vllava.run(*words, folder=clips)
    assert (again.code, again.err.splitlines()[0]) == (
        0,
        f"vllava: 1 row in '{out}' of clips that have changed since: kept, --prune drops them.",
    )
    told = [(row["path"], row["answer"]) for row in rows_of(out)]
    assert len(told) == 3 and told[-1] == (RED, "A orange star moves up-right.")
    os.utime(clips / RED, ns=(1, 1))
    (clips / "blue-star-grows.mp4").touch()
    pruned = vllava.run(*words, "--prune", folder=clips)
    assert "2 done before and skipped" in pruned.err
    assert [(row["path"], row["answer"]) for row in rows_of(out)] == [
        row for row in told if row[1] != "A red circle moves left."
    ]


def test_a_closed_pipe_ends_it_quietly(vllava: Zygote, clips: Path) -> None:
    pipe = clips.parent / "pipe"
    os.mkfifo(pipe)
    run = vllava.start(*DEMO, HAPPENS, ".", "--batch-size", "1", folder=clips, stdout=str(pipe))
    with pipe.open() as reader:
        assert json.loads(reader.readline())["path"] == "broken.mp4"
    status = vllava.wait(run.pid)
    told = (clips.parent / "clips.err").read_text()
    assert os.waitstatus_to_exitcode(status) == 141
    assert "Traceback" not in told and "failed" not in told


def test_what_is_asked_twice_is_computed_once_and_has_two_rows(vllava: Zygote, clips: Path) -> None:
    words = (*DEMO, "-Q", HAPPENS, "-Q", "What colour is it?", "-Q", HAPPENS, RED, RED, "--stats")
    done = vllava.run(*words, folder=clips)
    rows = [json.loads(line) for line in done.out.splitlines()]
    stats = json.loads(done.err.partition("stats: ")[2].splitlines()[0])
    assert [row["answer"] for row in rows].count("A red circle moves left.") == 4
    assert len({row["id"] for row in rows}) == 6
    assert (stats["tower_calls"], stats["clips"], stats["jobs"]) == (1, 1, 6)
    alone = vllava.run(*DEMO, "-Q", HAPPENS, "-Q", "What colour is it?", RED, "--stats", folder=clips)
    assert json.loads(alone.err.partition("stats: ")[2].splitlines()[0])["new_tokens"] == stats["new_tokens"]


@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_finishes_what_was_begun_and_a_second_stops_at_once(vllava: Zygote, clips: Path, times: int) -> None:
    out = clips.parent / "out.jsonl"
    linked(clips, 200)
    words = (*DEMO, HAPPENS, ".", "-o", out, "--batch-size", "2")
    run = vllava.start(*words, folder=clips)
    until_rows(out, 4)
    for _ in range(times):
        run.interrupt()
    done = run.wait()
    rows = rows_of(out)
    assert done.code == 130 and "Traceback" not in done.err
    assert f"Interrupted with {209 - len(rows)} jobs left. The same command goes on with them." in done.err
    assert 3 < len(rows) < 209
    if times == 2:
        return
    assert vllava.run(*words, folder=clips).code == 1
    assert len(by_id(rows_of(out))) == 209
    assert rows_of(out)[: len(rows)] == rows


def test_errors_are_skipped_unless_they_are_to_be_tried_again(vllava: Zygote, clips: Path) -> None:
    out = clips.parent / "out.jsonl"
    words = (*DEMO, HAPPENS, RED, "broken.mp4", "-o", out)
    assert vllava.run(*words, folder=clips).code == 1
    first = out.read_bytes()
    again = vllava.run(*words, folder=clips)
    assert again.code == 1
    assert "2 done before and skipped" in again.err and "demo model" not in again.err, "a model was loaded for nothing"
    assert out.read_bytes() == first
    again = vllava.run(*words, "--retry-errors", folder=clips)
    assert again.code == 1 and len(by_id(rows_of(out))) == 2
    shutil.copy(clips / RED, clips / "broken.mp4")
    assert vllava.run(*words, "--retry-errors", folder=clips).code == 0
    assert answers(rows_of(out)) == {
        (RED, HAPPENS): "A red circle moves left.",
        ("broken.mp4", HAPPENS): "A red circle moves left.",
    }


def test_failing_fast_stops_before_the_model_is_loaded(vllava: Zygote, clips: Path) -> None:
    done = vllava.run(*DEMO, HAPPENS, ".", "--fail-fast", folder=clips)
    (row,) = map(json.loads, done.out.splitlines())
    assert done.code == 1 and row["path"] == "broken.mp4" and "demo model" not in done.err


def test_questions_behind_minus_q_are_asked_as_they_were_and_it_is_said_once(vllava: Zygote, clips: Path) -> None:
    new = vllava.run(*DEMO, "-Q", HAPPENS, "-Q", "Which colour?", ".", "--dry-run", folder=clips)
    old = vllava.run(*DEMO, "-q", HAPPENS, "-q", "Which colour?", ".", "--dry-run", folder=clips)
    warning = "vllava: warning: -q before a question is read as -Q. Write -Q: -q means --quiet in every command.\n"
    assert (old.code, old.out, old.err) == (new.code, new.out, warning + new.err)
    quiet = vllava.run(*DEMO, "-q", HAPPENS, RED, folder=clips)
    assert (quiet.code, quiet.out.count("\n"), quiet.err) == (0, 1, "")


def test_cells_are_safe_if_asked_and_a_table_that_is_gone_is_written_from_its_journal(
    vllava: Zygote, clips: Path
) -> None:
    formula = (*DEMO, "=1+1", RED, "--format", "csv", "--fields", "question,error", "--safe-cells")
    assert vllava.run(*formula, folder=clips).out == "question,error\n'=1+1,\n"
    assert vllava.run(*formula, "-o", "safe.csv", folder=clips).code == 0
    assert (clips / "safe.csv").read_text() == "question,error\n'=1+1,\n"
    (clips / "safe.csv").unlink()
    assert "1 done before and skipped" in vllava.run(*formula, "-o", "safe.csv", folder=clips).err
    assert (clips / "safe.csv").read_text() == "question,error\n'=1+1,\n"


def test_rows_of_a_jobs_file_carry_its_other_fields(vllava: Zygote, clips: Path) -> None:
    jobs = [
        {"video_name": "red-circle-moves-left", "question": HAPPENS, "question_id": 7, "answer": "leave"},
        {"video_name": "blue-star-grows", "question": "What does the star do?", "question_id": 8, "answer": "grow"},
        {"video_name": "frames", "question": "What colour is it?", "question_id": 9, "answer": "yellow"},
    ]
    (clips / "frames").mkdir()
    for number in range(2):
        shutil.copy(clips / "yellow-star.png", clips / "frames" / f"{number:05}.png")
    (clips.parent / "test_q.json").write_text(json.dumps(jobs))
    done = vllava.run(*DEMO, "--jobs", "../test_q.json", "--videos", ".", folder=clips)
    rows = sorted(map(json.loads, done.out.splitlines()), key=lambda row: row["question_id"])
    assert done.code == 0
    assert done.err.count("vllava: question_id, answer in the jobs are passed through, not used.\n") == 1
    assert [(row["answer"], row["job_answer"], row["question_id"]) for row in rows] == [
        ("A red circle moves left.", "leave", 7),
        ("It grows.", "grow", 8),
        ("Yellow.", "yellow", 9),
    ]
    assert rows[2]["frame_times_s"] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_clips_of_a_jobs_file_are_divided_into_windows(vllava: Zygote, clips: Path) -> None:
    row = {"video": RED, "question": "Which way does it move?", "choices": ["left", "right"], "title": "red"}
    (clips / "jobs.jsonl").write_text(json.dumps(row))
    done = vllava.run(*DEMO, "--jobs", "jobs.jsonl", "--every", "1s", folder=clips)
    rows = sorted(map(json.loads, done.out.splitlines()), key=lambda row: row["start_s"])
    assert (done.code, [row["start_s"] for row in rows]) == (0, [0, 1, 2])
    assert {(row["answer"], row["job_title"], *row["choices"]) for row in rows} == {("left", "red", "left", "right")}


def test_a_jobs_file_is_not_replaced_by_its_answers(vllava: Zygote, clips: Path) -> None:
    questions = f"video,question\n{RED},{HAPPENS}\n"
    (clips / "questions.csv").write_text(questions)
    (clips / "link.csv").symlink_to("questions.csv")
    for name in ("questions.csv", "link.csv"):
        done = vllava.run(*DEMO, "--jobs", "questions.csv", "-o", name, "--overwrite", folder=clips)
        assert (done.code, done.out) == (1, "")
        assert done.err == f"vllava: '{name}' is read here and can't be the output, too. Name another file.\n"
    assert (clips / "questions.csv").read_text() == questions


def test_a_name_that_is_not_utf8_makes_valid_files_and_keeps_its_bytes(vllava: Zygote, clips: Path) -> None:
    name = os.fsdecode(b"caf\xe9.mp4")
    try:
        shutil.copy(clips / RED, clips / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    words = (*DEMO, HAPPENS, RED, "-", "--quiet")
    for out in ("out.csv", "out.tsv", "out.jsonl"):
        done = vllava.run(*words, "-o", out, folder=clips, stdin=b"caf\xe9.mp4\n")
        assert (done.code, done.out, done.err) == (0, "", "")
    (_, first, second) = csv.reader((clips / "out.csv").open(encoding="utf-8"))
    assert (first[1:3], second[1:3]) == ([RED, ""], ["caf\\xe9.mp4", "Y2Fm6S5tcDQ="])
    tabs = (clips / "out.tsv").read_text(encoding="utf-8").splitlines()
    assert tabs[2].split("\t")[1:3] == ["caf\\\\xe9.mp4", "Y2Fm6S5tcDQ="]
    rows = {row["path"]: row for row in rows_of(clips / "out.jsonl")}
    assert list(rows["caf\\xe9.mp4"].items())[-1] == ("path_bytes", "Y2Fm6S5tcDQ=")
    assert "path_bytes" not in rows[RED]
    again = vllava.run(*DEMO, HAPPENS, RED, "-", "-o", "out.jsonl", folder=clips, stdin=b"caf\xe9.mp4\n")
    assert "2 done before and skipped" in again.err
    assert vllava.run("replay", "out.jsonl", "--quiet", folder=clips).out.count("same") == 2
    retold = vllava.run(*DEMO, "--jobs", "out.csv", "--fields", "path,path_bytes,answer,id", "--quiet", folder=clips)
    told = {row["path"]: (row["path_bytes"], row["answer"]) for row in map(json.loads, retold.out.splitlines())}
    assert told == {
        RED: (None, "A red circle moves left."),
        "caf\\xe9.mp4": ("Y2Fm6S5tcDQ=", "A red circle moves left."),
    }


def test_paths_come_from_stdin_by_lines_or_by_nul_and_no_letter_of_theirs_is_lost(vllava: Zygote, clips: Path) -> None:
    strange = clips / "a\x1b[31m\r\nb.mp4"
    shutil.copy(clips / RED, strange)
    words = (*DEMO, HAPPENS, "-", "--fields", "path,answer", "--quiet")
    lines = vllava.run(*words, folder=clips, stdin=f"{RED}\n".encode())
    assert lines.out == json.dumps({"path": RED, "answer": "A red circle moves left."}) + "\n"
    nul = vllava.run(*words, "-0", "--format", "csv", folder=clips, stdin=b"a\x1b[31m\r\nb.mp4\0")
    assert nul.code == 0
    table = b'path,answer\n"a\x1b[31m\r\nb.mp4",A red circle moves left.\n'
    assert (clips.parent / "clips.out").read_bytes() == table
