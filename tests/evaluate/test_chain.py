"""The demo's benchmark from its questions to a score and a page, each command a process of its own.

What is right is counted here from the rows and the shipped files alone, without the code of score.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.batch.fork_server import Zygote
from tests.commands.shell import Shell
from vllava_cli import demo

Rows = list[dict[str, Any]]
Run = Callable[..., Shell]
WEAK = "direction beside another"
"""The kind of question that training/README.md says the demo often gets wrong."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The benchmark as `vllava demo --benchmark` copies it."""
    folder = tmp_path_factory.mktemp("chain") / "demo-bench"
    assert Shell.run("demo", "--benchmark", folder, folder=folder.parent).code == 0
    return folder


@pytest.fixture(scope="module")
def run(bench: Path) -> Run:
    """Runs vllava beside the folder of the benchmark."""
    return lambda *words: Shell.run(*words, folder=bench.parent)


@pytest.fixture(scope="module")
def answered(vllava: Zygote, bench: Path) -> Callable[..., tuple[str, Rows]]:
    """Answers a file of questions, once with each set of options: the name of the rows, and the rows."""
    known: dict[tuple[str, ...], tuple[str, Rows]] = {}

    def answer(jobs: str, *options: str) -> tuple[str, Rows]:
        if (jobs, *options) not in known:
            out = f"{'-'.join((Path(jobs).stem, *options))}-rows.jsonl"
            words = ("batch", "--jobs", f"demo-bench/{jobs}", "--videos", "demo-bench/videos", "--model", "demo")
            done = vllava.run(*words, "--server", "off", *options, "-o", out, folder=bench.parent)
            assert (done.code, done.out) == (0, ""), done.err
            known[jobs, *options] = out, [json.loads(line) for line in (bench.parent / out).read_text().splitlines()]
        return known[jobs, *options]

    return answer


def scored(run: Run, *words: str) -> dict[str, Any]:
    done = run("score", *words, "--json")
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def shares(rows: Rows, right: Callable[[Mapping[str, Any]], bool]) -> dict[str, tuple[int, int]]:
    """The kind of question -> (rows, right ones)."""
    asked, known = Counter(row["type"] for row in rows), Counter(row["type"] for row in rows if right(row))
    return {kind: (count, known[kind]) for kind, count in asked.items()}


def is_right(row: Mapping[str, Any]) -> bool:
    """The answer is a choice to the letter, or has the words of the right answer: "Up-left." is "up-left"."""
    return str(row["job_answer"]).lower().rstrip(".") == row["answer"].lower().rstrip(".")


def test_three_commands_lead_from_choices_to_a_score_by_type(answered: Any, run: Run) -> None:
    name, rows = answered("choices.jsonl")
    asked = [json.loads(line) for line in (demo.BENCHMARK / "choices.jsonl").read_text().splitlines()]
    by_id = {row["question_id"]: row for row in rows}
    assert len(by_id) == len(asked) == len(rows)
    for job in asked:
        row = by_id[job["question_id"]]
        assert [row[key] for key in ("question", "choices", "job_answer", "type", "error")] == [
            *(job[key] for key in ("question", "candidates", "answer", "type")),
            None,
        ]
        assert Path(row["path"]).stem == Path(job["video"]).stem
        assert list(row["probabilities"]) == job["candidates"]
        assert row["answer"] == max(row["probabilities"], key=row["probabilities"].get)
    kinds = shares(rows, is_right)
    assert sum(right for _, right in kinds.values()) / len(rows) >= 0.9
    assert all(right / count >= 0.9 for kind, (count, right) in kinds.items() if kind != WEAK)
    count, right = kinds[WEAK]
    assert right < count, "the page and the table should have something wrong to show"

    table = run("score", name, "--by", "type")
    assert (table.code, table.err) == (0, "")
    share = 100 * sum(right for _, right in kinds.values()) / len(rows)
    assert re.search(rf"^choices +{share:.1f}% \(.*\) of {len(rows)}, by chance 26\.\d%$", table.out, re.MULTILINE)
    lines = re.findall(r"^  (\S.*?) +(\d+\.\d)% \(.*\); (\d+) rows$", table.out, re.MULTILINE)
    assert lines == [(kind, f"{100 * right / count:.1f}", str(count)) for kind, (count, right) in sorted(kinds.items())]
    figures = scored(run, name, "--by", "type")
    assert figures["choice"]["accuracy"]["value"] == pytest.approx(share / 100)
    assert (figures["rows"], figures["clips"], figures["errors"]) == (87, 29, {})


def test_the_page_has_every_question_and_no_clip_is_missing(answered: Any, run: Run, bench: Path) -> None:
    name, rows = answered("choices.jsonl")
    done = run("report", name, "-o", "report.html")
    assert (done.code, done.out) == (0, "report.html\n"), done.err
    assert "can't be shown" not in done.err
    page = (bench.parent / "report.html").read_text()
    assert page.count("data:image/webp;base64,") == len({row["path"] for row in rows}) == 29
    assert all(row["question"] in page for row in rows)
    right = sum(map(is_right, rows))
    assert f"{right} of the 87 answers whose right answer is known are right: {right / 87:.1%}." in page


def test_letters_are_beyond_the_demo_and_its_score_says_so(answered: Any, run: Run) -> None:
    """It was never trained on lettered options, so it is no better than chance. That is told, not hidden."""
    name, rows = answered("choices.jsonl", "--choice-style", "letter")
    assert {row["answer"] for row in rows} <= set("ABCD")
    right = sum(row["choices"]["ABCD".index(row["answer"])] == row["job_answer"] for row in rows)
    figures = scored(run, name, "--against", answered("choices.jsonl")[0])
    assert figures["choice"]["accuracy"]["value"] == pytest.approx(right / len(rows))
    assert figures["choice"]["accuracy"]["low"] < figures["choice"]["chance"] < figures["choice"]["accuracy"]["high"]
    assert figures["against"]["mcnemar_p"] < 0.001


def test_open_answers_are_right_up_to_capitals_and_stops(answered: Any, run: Run) -> None:
    name, rows = answered("open.csv")
    kinds = shares(rows, is_right)
    assert (len(rows), sum(count for count, _ in kinds.values())) == (58, 58)
    assert all(right / count >= 0.85 for kind, (count, right) in kinds.items() if kind != WEAK)
    figures = scored(run, name)["open"]
    assert figures["exact"]["value"] == 0
    assert figures["normalised"]["value"] == pytest.approx(sum(map(is_right, rows)) / len(rows))


def test_answers_in_a_second_file_are_joined_by_the_id_of_the_question(answered: Any, run: Run) -> None:
    name, rows = answered("yes_no_q.json")
    gold = {each["question_id"]: each["answer"] for each in json.loads((demo.BENCHMARK / "yes_no_a.json").read_text())}
    right = sum(is_right(row | {"job_answer": gold[row["question_id"]]}) for row in rows)
    assert right / len(rows) >= 0.9
    figures = scored(run, name, "--gold", "demo-bench/yes_no_a.json")
    assert (figures["rows"], figures["with_gold"]) == (58, 58)
    assert figures["yes_no"]["accuracy"]["value"] == pytest.approx(right / len(rows))


def test_parts_of_clips_have_answers_of_their_own(answered: Any, run: Run) -> None:
    name, rows = answered("moments.tsv")
    with (demo.BENCHMARK / "moments.tsv").open(newline="") as file:
        asked = {job["qid"]: job for job in csv.DictReader(file, delimiter="\t")}
    assert len(rows) == len(asked) == 36
    for row in rows:
        job = asked[row["qid"]]
        assert (row["start_s"], row["end_s"]) == (float(job["start"]), float(job["end"]))
        assert row["choices"] == [job[f"a{place}"] for place in range(4)]
        assert all(row["start_s"] <= time_s < row["end_s"] for time_s in row["frame_times_s"])
    right = sum(row["answer"] == row["choices"][int(row["job_answer"])] for row in rows)
    assert right / len(rows) >= 0.95
    assert scored(run, name)["choice"]["accuracy"]["value"] == pytest.approx(right / len(rows))
