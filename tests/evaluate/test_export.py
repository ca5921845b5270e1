"""`vllava export`: each form is read here as that scorer's own script reads it, in code of our own."""

from __future__ import annotations

import ast
import io
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest

from vllava_cli import evaluate_options
from vllava_cli.errors import OutputError, UsageError, VllavaError
from vllava_cli.evaluate.export import ExportRequest, run
from vllava_cli.evaluate.export_forms import FORMS, OF_FILES, ExportForm
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import line_of

pytestmark = pytest.mark.usefixtures("in_a_folder")
Row = Mapping[str, Any]
COLOURS = ["red", "green", "blue", "It turns. (A) gray"]
IDS = itertools.count()
ERROR = {"kind": "missing", "message": "no such file"}


def row(number: int, answer: str | None = "blue", **fields: object) -> dict[str, object]:
    """The row of a choice between four colours, of which blue (C) is right, by text unless its `answer` is a letter."""
    names = ("A", "B", "C", "D") if answer and len(answer) == 1 else COLOURS
    return {
        "id": f"{next(IDS):032x}",
        "path": f"clips/{number}.mp4",
        "question": "Which colour?",
        "answer": answer,
        "error": ERROR if answer is None else None,
        "probabilities": None if answer is None else dict.fromkeys(names, 0.25),
        "choices": COLOURS,
        "job_answer": "blue",
        **fields,
    }


def opened(number: int, answer: str | None = "A red star.", **fields: object) -> dict[str, object]:
    """The row of an open question, whose right answer is "red star"."""
    base = {"id": f"{next(IDS):032x}", "path": f"{number}.avi", "question": "What is it?", "job_answer": "red star"}
    return {**base, "answer": answer, "error": ERROR if answer is None else None, **fields}


def export(
    form: ExportForm, *rows: Row, name: str = "rows.jsonl", output: str | None = None, is_overwriting: bool = False
) -> tuple[str, str]:
    """What it prints on stdout and on stderr."""
    out, err = io.StringIO(), io.StringIO()
    Path(name).write_bytes(b"".join(map(line_of, rows)))
    to = Path(output) if output else None
    request = ExportRequest(rows=(Path(name),), form=form, output=to, is_overwriting=is_overwriting)
    assert run(request, Screen(out=out, err=err)) == 0
    return out.getvalue(), err.getvalue()


def refused(form: ExportForm, *rows: Row, kind: type[VllavaError] = OutputError, output: str | None = None) -> str:
    with pytest.raises(kind) as caught:
        export(form, *rows, output=output)
    assert output is None or not Path(output).exists()
    return str(caught.value)


def test_the_forms_of_the_command_line_are_those_that_can_be_written() -> None:
    assert get_args(get_args(evaluate_options.Form)[0]) == tuple(FORMS)
    assert get_args(ExportForm) == tuple(FORMS)


def test_each_line_for_video_llava_is_a_python_literal_and_json_alike() -> None:
    hard = 'A "star" \U0001f600 caf\u00e9\nnull\u2028true'
    out, err = export(
        "video-llava", opened(1, hard, question_id=7), opened(2, None, question_id="v_2"), row(3, "C", qid=1)
    )
    lines = io.StringIO(out).readlines()
    found = [ast.literal_eval(line.strip()) for line in lines]
    assert found == [
        {"id": "7", "question": "What is it?", "answer": "red star", "pred": hard},
        {"id": "v_2", "question": "What is it?", "answer": "red star", "pred": ""},
        {"id": "1", "question": "Which colour?", "answer": "blue", "pred": "blue"},
    ]
    assert found == [json.loads(line) for line in lines]
    assert err == "vllava: 1 row without an answer: written with an empty pred, which the judge sees.\n"


def test_activitynet_qa_gets_answers_as_its_annotations_write_them() -> None:
    out, _ = export("activitynet-qa", opened(1, "Yes.", question_id="v_a_1"), opened(2, None, question_id="v_a_2"))
    gold = {"v_a_1": "yes", "v_a_2": "no"}
    preds = json.loads(out)
    assert [gold[each["question_id"]] == each["answer"] for each in preds] == [True, False]
    assert preds[1] == {"question_id": "v_a_2", "answer": ""}


@pytest.mark.parametrize("answer", ["blue", "C"])
def test_nextqa_gets_places_under_the_video_and_the_question(answer: str) -> None:
    out, err = export("nextqa", row(40, answer, qid="6"), row(40, "A", qid=7), row(41, None, qid=6))
    assert json.loads(out) == {
        "40_6": {"prediction": 2, "answer": 2},
        "40_7": {"prediction": 0, "answer": 2},
        "41_6": {"prediction": -1, "answer": 2},
    }
    assert "1 row without an answer" in err


@pytest.mark.parametrize("answer", ["blue", "C"])
def test_mvbench_gets_the_letter_before_the_text(answer: str) -> None:
    """Its script takes a prediction for right whose first word is in the right answer's, as "" and "a" are."""
    wrong = row(2, COLOURS[3], task_type="Action Count")
    out, _ = export("mvbench", row(1, answer), wrong, row(3, None), name="fine_grained_pose.jsonl")
    found = json.loads(out)
    assert found["acc_dict"] == {"Fine-grained Pose": [1, 2], "Action Count": [0, 1]}
    assert found["res_list"] == [
        {"pred": "(C) blue", "gt": "(C) blue"},
        {"pred": "(D) It turns. (A) gray", "gt": "(C) blue"},
        {"pred": "(none)", "gt": "(C) blue"},
    ]
    firsts = [tuple(each[key].lower().split(" ")[0] for key in ("pred", "gt")) for each in found["res_list"]]
    assert [pred.replace(".", "") in gold or gold in pred for pred, gold in firsts] == [True, False, False]


VIDEO = {"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law", "task_type": "OCR"}


def test_videomme_gets_the_questions_of_each_video_together() -> None:
    rows = [row(1, "C", question_id="001-1", **VIDEO), row(2, None, question_id="002-1", **VIDEO | {"video_id": "002"})]
    out, err = export("videomme", *rows, row(1, "red", question_id="001-2", **VIDEO))
    first, second = json.loads(out)
    questions = first.pop("questions")
    assert first == {key: VIDEO[key] for key in ("video_id", "duration", "domain", "sub_category")} | {"missing": False}
    assert questions[0] == {
        "question_id": "001-1",
        "task_type": "OCR",
        "question": "Which colour?",
        "options": ["A. red", "B. green", "C. blue", "D. It turns. (A) gray"],
        "answer": "C",
        "response": "C",
    }
    assert [each["response"] for each in questions + second["questions"]] == ["C", "A", ""]
    assert "leaves out of the accuracy" in err


def test_egoschema_gets_a_place_for_each_clip() -> None:
    out, _ = export("egoschema", row(1), row(2, "A", q_uid="uid"), row(3, None))
    assert json.loads(out) == {"1": 2, "uid": 0, "3": -1}


def test_lmms_eval_gets_a_log_for_each_task() -> None:
    """Its model `from_log` looks an answer up by the task and the number of the document."""
    rows = [row(1, "blue", doc_id="1"), opened(2, doc_id=0), opened(3, None, doc_id=2)]
    out, err = export("lmms-eval", *rows, name="nextqa_mc_test.jsonl", output="logs")
    log = json.loads(Path("logs/nextqa_mc_test.json").read_text())
    assert (out, log["model_configs"]["task"], log["args"]["limit"]) == ("", "nextqa_mc_test", None)
    answers = {each["doc_id"]: each["resps"][0] for each in log["logs"]}
    assert [answers[id][0] for id in range(3)] == ["A red star.", "C", ""]
    assert "1 row without an answer" in err


def test_a_line_of_jsonl_has_the_same_keys_for_every_kind_of_row() -> None:
    out, _ = export("jsonl", row(1, "C", qid=5), opened(2), row(3, None))
    lettered, free, failed = map(json.loads, out.splitlines())
    assert list(lettered) == list(free) == list(failed)
    assert (lettered["pred"], lettered["pred_place"], lettered["answer"], lettered["answer_place"]) == (
        *("blue", 2),
        *("blue", 2),
    )
    assert (free["choices"], free["pred"], free["answer"], free["pred_place"]) == ([], "A red star.", "red star", None)
    assert (failed["pred"], failed["error"], failed["answer"]) == (None, "missing", "blue")
    assert lettered["fields"] == {"job_answer": "blue", "qid": 5}


def test_the_output_is_a_file_that_is_replaced_only_if_asked() -> None:
    export("nextqa", row(1, qid=1), output="new/a.json")
    before = Path("new/a.json").read_text()
    assert before == export("nextqa", row(1, qid=1))[0]
    with pytest.raises(OutputError, match="is already there"):
        export("nextqa", row(2, qid=1), output="new/a.json")
    export("lmms-eval", row(1, doc_id=1), output="new")
    with pytest.raises(OutputError, match=r"rows\.json' is already there"):
        export("lmms-eval", row(1, doc_id=1), output="new")
    assert Path("new/a.json").read_text() == before
    export("nextqa", row(2, qid=1), output="new/a.json", is_overwriting=True)
    assert list(json.loads(Path("new/a.json").read_text())) == ["2_1"]


FAULTS: tuple[tuple[ExportForm, Row, str], ...] = (
    ("nextqa", row(2), 'it has no "qid"'),
    ("nextqa", opened(2, qid=1), "it has no choices"),
    ("nextqa", row(2, qid=1, job_answer=None), "its right answer isn't known"),
    ("nextqa", row(2, qid=1, job_answer="pink"), "its right answer is no choice"),
    ("nextqa", row(1, qid=1), "its id is '1_1', as in 'rows.jsonl', row 1"),
    ("nextqa", row(2, qid=[1]), 'its "qid" is neither text nor a whole number'),
    ("video-llava", opened(2), 'it has no "question_id" or "qid" or "job_id" or "q_uid"'),
    ("video-llava", opened(2, qid=2, job_answer=None), "its right answer isn't known"),
    ("video-llava", opened(2, qid="a/b"), "its id 'a/b' has a slash"),
    ("videomme", row(2, question_id="2-1"), 'it has no "duration"'),
    ("videomme", row(2, question_id="2-1", **VIDEO | {"duration": "9"}), "its \"duration\" is '9', which is none of"),
    ("lmms-eval", row(2, doc_id="x"), "its \"doc_id\" is 'x', which is not the number of a document"),
    ("lmms-eval", row(2, doc_id=1), 'its "doc_id" 1 is in an earlier row, too'),
    ("mvbench", opened(2), "it has no choices"),
)


@pytest.mark.parametrize(("form", "bad", "fault"), FAULTS)
def test_a_row_that_does_not_fit_the_form_is_named_and_nothing_is_written(
    form: ExportForm, bad: Row, fault: str
) -> None:
    good = row(1, qid=1, question_id="1-1", doc_id=1, **VIDEO | {"video_id": "000"})
    message = refused(form, good, bad, output="out")
    assert message.startswith(f"'rows.jsonl', row 2: {fault}")
    assert message.endswith(".")


def test_a_number_that_json_cannot_hold_is_refused() -> None:
    Path("rows.jsonl").write_bytes(line_of(opened(1)) + line_of(opened(2)).replace(b"}\n", b', "x": 1e999}\n'))
    with pytest.raises(OutputError, match="row 2: it has an infinite number"):
        run(ExportRequest(rows=(Path("rows.jsonl"),), form="jsonl", output=Path("out")), Screen(err=io.StringIO()))
    assert not Path("out").exists()


def test_no_rows_and_a_missing_folder_are_refused() -> None:
    assert refused("nextqa") == "'rows.jsonl' has no rows. Name the output of vllava batch."
    assert OF_FILES == ("lmms-eval",)
    message = "--as lmms-eval has a file for each task: give -o FOLDER."
    assert refused("lmms-eval", row(1, doc_id=1), kind=UsageError) == message
