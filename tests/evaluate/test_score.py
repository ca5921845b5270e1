"""`vllava score` as its users meet it: figures, groups, what is said, and exit codes."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from sklearn.metrics import precision_recall_fscore_support

from tests.commands.shell import Shell, environment_of
from tests.evaluate.judging import row, write
from tests.refusals import refused
from vllava_cli.errors import UsageError
from vllava_cli.evaluate.score import ScoreRequest, run
from vllava_cli.screen import Screen

pytestmark = pytest.mark.usefixtures("in_a_folder")
COLOURS = ("red", "blue", "green", "grey")
SHAPES = ("star", "circle")


def asked(path: str, answer: str, gold: object, **fields: Any) -> dict[str, Any]:
    chances = {each: 0.7 if each == answer else 0.1 for each in COLOURS}
    return row(path, answer=answer, choices=COLOURS, chances=chances, job_answer=gold, **fields)


ROWS = [
    asked("a.mp4", "red", "red", task="colour", video={"kind": "short"}),
    asked("a.mp4", "red", 1, task="colour", hard=True),
    asked("b.mp4", "blue", "B", task="colour"),
    asked("c.mp4", "grey", ["(C) green", "grey"], task="tone"),
    row("c.mp4", "Which?", error="unreadable", choices=SHAPES, job_answer="star", task="shape"),
    row("c.mp4", "Which, then?", "star", choices=SHAPES, task="shape"),
]
OPEN = [
    row("a.mp4", "What?", "A red ball.", job_answer="red ball", job_id=10),
    row("b.mp4", "What?", "It is a dog", job_answer="the dog", job_id=2),
    row("b.mp4", "Is it?", "Yes, it is.", job_answer="yes"),
    row("c.mp4", "Is it?", "Perhaps", job_answer="no"),
    row("c.mp4", "Was it?", "yes", job_answer="No"),
    row("d.mp4", "Is it?", error="missing", job_answer="yes"),
]


def scored(rows: list[dict[str, Any]], *, code: int = 0, **more: Any) -> tuple[str, str]:
    """What is printed on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    request = ScoreRequest(rows=(write(Path("rows.jsonl"), rows),), **more)
    assert run(request, Screen(out=out, err=err)) == code
    return out.getvalue(), err.getvalue()


def figures(rows: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(scored(rows, is_json=True, **more)[0])
    return found


def values(found: Any) -> Any:
    """The same object with (value, rows) for each figure, whose interval is tested elsewhere."""
    if not isinstance(found, dict):
        return found
    if "low" in found:
        return None if found["value"] is None else round(found["value"], 4), found["rows"]
    return {key: values(value) for key, value in found.items()}


def test_choices_are_scored_and_errors_counted_apart() -> None:
    found = figures(ROWS)
    low, high = found["choice"]["accuracy"]["low"], found["choice"]["accuracy"]["high"]
    assert 0.5 <= low < 0.75 < high == 1.0
    assert [each["rows"] for each in found["calibration"].pop("bins") if each["rows"]] == [4]
    assert found["calibration"].pop("ece") == pytest.approx(0.05)
    assert found["calibration"].pop("brier") == pytest.approx((3 * 0.12 + (0.49 + 0.81 + 0.02)) / 4)
    assert values(found) == {
        "files": ["rows.jsonl"],
        "gold": None,
        "rows": 6,
        "answered": 5,
        "with_gold": 5,
        "choice": {
            "errors": 1,
            "accuracy": (0.75, 4),
            "accuracy_errors_wrong": (0.6, 5),
            "chance": pytest.approx((4 * 0.25 + 0.5) / 5),
        },
        "open": None,
        "yes_no": None,
        "errors": {"unreadable": 1},
        "without_gold": 1,
        "unclear_gold": 0,
        "clips": 3,
        "resamples": 2000,
        "calibration": {"rows": 4, "confidence": pytest.approx(0.7), "accuracy": 0.75},
        "groups": [],
        "against": None,
    }
    assert figures(ROWS) == figures(ROWS)


def test_open_answers_are_scored_by_text_by_words_and_by_yes_and_no() -> None:
    found = values(figures(OPEN))
    precision, recall, f1, _ = precision_recall_fscore_support([1, 0, 0], [1, 0, 1], average="binary")
    assert (found["choice"], found["calibration"]) == (None, None)
    assert found["open"] == {
        "errors": 1,
        "exact": (0.0, 5),
        "normalised": (0.2, 5),
        "word_f1": (round((1 + 2 / 4 + 2 / 4 + 0 + 0) / 5, 4), 5),
        "exact_errors_wrong": (0.0, 6),
        "normalised_errors_wrong": (round(1 / 6, 4), 6),
        "word_f1_errors_wrong": (round(2 / 6, 4), 6),
    }
    assert found["yes_no"] == {
        "errors": 1,
        "accuracy": (round(1 / 3, 4), 3),
        "precision": precision,
        "recall": recall,
        "f1": pytest.approx(f1),
        "yes_share": pytest.approx(2 / 3),
        "gold_yes_share": pytest.approx(1 / 3),
        "neither": 1,
    }


def test_groups_are_in_natural_order_and_missing_values_last() -> None:
    groups = figures(ROWS + OPEN, by=("task", "video.kind", "job_id", "hard"))["groups"]
    assert [(each["field"], each["value"], each["rows"]) for each in groups] == [
        ("task", "colour", 3),
        ("task", "shape", 2),
        ("task", "tone", 1),
        ("task", "(none)", 6),
        ("video.kind", "short", 1),
        ("video.kind", "(none)", 11),
        ("job_id", "2", 1),
        ("job_id", "10", 1),
        ("job_id", "(none)", 10),
        ("hard", "true", 1),
        ("hard", "(none)", 11),
    ]
    assert values(groups[0]) == {
        "field": "task",
        "value": "colour",
        "rows": 3,
        "answered": 3,
        "with_gold": 3,
        "choice": {
            "errors": 0,
            "accuracy": (0.6667, 3),
            "accuracy_errors_wrong": (0.6667, 3),
            "chance": pytest.approx(0.25),
        },
        "open": None,
        "yes_no": None,
    }
    assert (groups[2]["choice"]["accuracy"]["low"], groups[2]["choice"]["accuracy"]["high"]) == (None, None)


TABLE = """\
rows           6 about 3 clips: 5 answers, 1 error (unreadable 1)
right answers  5 known, 1 not
choices        75.0 % (50.0 to 100.0) of 4, by chance 30.0 %; 60.0 % (50.0 to 100.0) with errors as wrong
calibration
  ECE           0.050, Brier 0.420, confidence 70.0 %, accuracy 75.0 % of 4
  0.67 to 0.73  4 answers, confidence 70.0 %, right 75.0 %
by task
  colour  66.7 % (50.0 to 100.0); 3 rows
  shape   no answers; 2 rows, 1 error
  tone    100.0 %; 1 row
"""


def test_groups_may_be_of_a_field_that_only_the_gold_file_has() -> None:
    Path("gold.json").write_text(
        json.dumps(
            [
                {"question_id": "v_1", "answer": "yes", "type": 3, "by": {"whom": "Ann"}, "task": "theirs"},
                {"question_id": "v_2", "answer": "no", "type": 0, "by": {"whom": "Bo"}},
            ]
        )
    )
    rows = [row(question_id="v_1", task="ours"), row(question_id="v_2"), row(question_id="v_3")]
    groups = figures(rows, gold=Path("gold.json"), by=("type", "by.whom", "task"))["groups"]
    assert [(each["field"], each["value"], each["rows"], each["with_gold"]) for each in groups] == [
        *(("type", "0", 1, 1), ("type", "3", 1, 1), ("type", "(none)", 1, 0)),
        *(("by.whom", "Ann", 1, 1), ("by.whom", "Bo", 1, 1), ("by.whom", "(none)", 1, 0)),
        *(("task", "ours", 1, 1), ("task", "(none)", 2, 1)),
    ]
    fault = refused(UsageError, scored, rows, gold=Path("gold.json"), by=("kind",))
    assert fault.startswith("--by 'kind' is a field of no row")


def test_figures_are_a_table_for_people() -> None:
    assert scored(ROWS, by=("task",)) == (TABLE, "")


def test_a_table_fits_a_narrow_terminal_and_has_no_control_characters() -> None:
    rows = [*ROWS, asked("d.mp4", "red", "red", task="\x1b[31mcolour\nred")]
    write(Path("rows.jsonl"), rows)
    main, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 60))
    words = [sys.executable, "-m", "vllava_cli", "score", "rows.jsonl", "--by", "task"]
    done = subprocess.Popen(words, stdout=side, env=environment_of(Path.cwd()), stdin=subprocess.DEVNULL)
    os.close(side)
    shown = b""
    while data := _read(main):
        shown += data
    os.close(main)
    assert done.wait() == 0
    lines = shown.decode().split("\r\n")
    assert max(map(len, lines)) <= 60 and b"\x1b" not in shown
    assert any(line.startswith("  [31mcolour red") for line in lines)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:
        return b""


def test_right_answers_that_name_no_choice_are_counted_apart_and_end_with_1() -> None:
    rows = [*ROWS, asked("d.mp4", "red", "purple"), asked("e.mp4", "red", "violet")]
    out, err = scored(rows, code=1)
    assert "right answers  5 known, 1 not, 2 unclear\n" in out and "choices        75.0 % " in out
    assert err == (
        "vllava: 2 right answers can't be scored: no choice of the row is called so. The first is that of "
        "'rows.jsonl', row 7, 'purple'.\n"
    )


def test_errors_of_a_run_with_choices_count_among_the_choices() -> None:
    chances = {"yes": 0.6, "no": 0.4}
    rows = [
        row("a.mp4", answer="yes", chances=chances, job_answer="yes"),
        row("b.mp4", error="missing", chances=chances, job_answer="no"),
    ]
    found = figures(rows)
    assert (found["open"], found["choice"]["errors"], found["yes_no"]["errors"]) == (None, 1, 1)
    assert values(found["choice"]["accuracy_errors_wrong"]) == (0.5, 2)


def test_requests_that_mean_nothing_are_refused() -> None:
    for rows, more, fault in (
        (
            ROWS,
            {"by": ("type",)},
            "--by 'type' is a field of no row: they have id, path, question, answer, model, error, choices, task.",
        ),
        ([], {}, "There are no rows. Name what vllava batch wrote."),
        (
            OPEN,
            {"plot": Path("a.png")},
            "--plot needs rows with probabilities and right answers: run batch with choices.",
        ),
        (ROWS, {"against": Path("-")}, "--against reads rows twice, and - can be read only once. Name files."),
        (ROWS, {"against": Path("gone.jsonl")}, None),
    ):
        if fault:
            assert refused(UsageError, scored, rows, **more) == fault
        else:
            assert "'gone.jsonl' can't be read" in refused(Exception, scored, rows, **more)


def test_the_command_takes_gold_places_from_1_and_writes_a_plot(tmp_path: Path) -> None:
    rows = [asked("a.mp4", "red", None, qid=7), asked("b.mp4", "grey", None, qid=8)]
    write(tmp_path / "rows.jsonl", rows)
    (tmp_path / "gold.csv").write_text("qid,answer\n7,1\n8,3\n", encoding="utf-8")
    words = ("score", "rows.jsonl", "--gold", "gold.csv", "--gold-as", "place-from-1", "--plot", "a.svg")
    done = Shell.run(*words, folder=tmp_path)
    assert done.out.splitlines()[2] == "choices        50.0 % (0.0 to 100.0) of 2, by chance 25.0 %"
    assert done.err == (
        "vllava: --gold: by qid, 2 rows with a right answer, 0 without; 0 answers without a row.\n"
    ) and (done.code, (tmp_path / "a.svg").exists()) == (0, True)
    again = Shell.run(*words, folder=tmp_path)
    assert again == Shell.failed(
        "'a.svg' is already there. Give --overwrite to replace it, or name another file.", code=2
    )
    quiet = Shell.run(*words, "--overwrite", "--quiet", folder=tmp_path)
    assert (quiet.code, quiet.out, quiet.err) == (0, done.out, "")


def test_rows_without_right_answers_are_counted_and_nothing_is_scored() -> None:
    assert scored([row("a.mp4")]) == ("rows           1 about 1 clip: 1 answer\nright answers  0 known, 1 not\n", "")


def test_a_score_loads_no_heavy_library(tmp_path: Path) -> None:
    """Neither torch nor scikit-learn: a plain accuracy is there at once."""
    write(tmp_path / "rows.jsonl", ROWS)
    code = (
        "import sys; sys.argv = ['vllava', 'score', 'rows.jsonl', '--by', 'task']\n"
        "from vllava_cli.cli import main\n"
        "main(); print(sorted({'torch', 'sklearn', 'scipy', 'matplotlib', 'pyarrow', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment_of(tmp_path), capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
