"""The forms in which other scorers read answers: each makes the texts of its files of records. Pure."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vllava_cli.batch.jobs import CHOICES, ROW_KEYS
from vllava_cli.batch.merge import PART
from vllava_cli.commands.provenance import AGREEMENT_KEYS
from vllava_cli.errors import OutputError
from vllava_cli.evaluate.records import Record
from vllava_cli.evaluate.row_files import RowPlace
from vllava_cli.nouns import ExportForm
from vllava_cli.storage.jsonl import portable

ONE = ""
"""The name of the file of a form that has one file."""
NO_ANSWER = "(none)"
"""What MVBench's script counts as wrong; it takes an empty prediction for a right one."""
DURATIONS = ("short", "medium", "long")
_MOST_DIGITS = 18
_OWN = {*ROW_KEYS, *AGREEMENT_KEYS, CHOICES}
_Files = Mapping[str, Iterable[str]]
Id = TypeVar("Id", str, int, str | int)


class Form(NamedTuple):
    """One form."""

    files: Callable[[Iterable[Record]], _Files]
    """Returns the lines of each file, by the file's name. Errors: OutputError for a row that doesn't fit."""
    unanswered: str
    """What rows without an answer become."""


def _video_llava(records: Iterable[Record]) -> _Files:
    """A line for each question that is JSON and also a Python literal: the script evaluates lines as Python."""
    return {ONE: [_line(_judged(id, each), each) for id, each in _by_id(records, _own_id)]}


def _judged(id: str | int, record: Record) -> dict[str, object]:
    """Makes the object of a line. Its id is text, as the script keeps each verdict in a file of that name."""
    if "/" in str(id):
        raise _fault(record, f"its id {id!r} has a slash, and Video-LLaVA's script names a file by it")
    return {"id": str(id), "question": record.question, "answer": _gold(record), "pred": record.answer or ""}


def _activitynet_qa(records: Iterable[Record]) -> _Files:
    """Answers as the annotations write them, without capitals and full stop: the script asks for equal texts."""
    found = _by_id(records, _own_id)
    return _whole([{"question_id": id, "answer": _worded(each.answer or "")} for id, each in found])


def _worded(answer: str) -> str:
    return answer.strip().removesuffix(".").lower()


def _nextqa(records: Iterable[Record]) -> _Files:
    """An object that has an entry "VIDEO_QID" for each question, with places from 0."""
    found = _by_id(records, lambda record: f"{record.values.get('video') or _stem(record)}_{_named(record, 'qid')}")
    return _whole({id: {"prediction": _place_or_none(each), "answer": _right(each)} for id, each in found})


def _egoschema(records: Iterable[Record]) -> _Files:
    """An object that has a place from 0 for each clip."""
    found = _by_id(records, lambda record: str(record.values.get("q_uid") or _stem(record)))
    return _whole({id: _place_or_none(each) for id, each in found})


def _mvbench(records: Iterable[Record]) -> _Files:
    """Counts the right and all questions of each task, and lists each prediction beside the right answer."""
    tasks: dict[str, list[int]] = {}
    results = []
    for each in records:
        right, chosen = _right(each), _chosen(each)
        counts = tasks.setdefault(_task(each), [0, 0])
        counts[0] += chosen == right
        counts[1] += 1
        pred = NO_ANSWER if chosen is None else _lettered(each, chosen)
        results.append({"pred": pred, "gt": _lettered(each, right)})
    return _whole({"acc_dict": tasks, "res_list": results})


def _videomme(records: Iterable[Record]) -> _Files:
    """A list of the videos, each with its questions."""
    videos: dict[str, dict[str, Any]] = {}
    for id, each in _by_id(records, lambda record: _named(record, "question_id")):
        name = str(each.values.get("video_id") or _stem(each))
        video = videos.setdefault(name, {})
        if not video:
            video |= {"video_id": name, "duration": _duration(each)}
            video |= {key: _named(each, key) for key in ("domain", "sub_category")}
            video |= {"missing": False, "questions": []}
        video["questions"].append({"question_id": id, **_asked(each)})
    return _whole(list(videos.values()))


def _asked(record: Record) -> dict[str, object]:
    right, chosen = _right(record), _chosen(record)
    if len(record.choices) > len("ABCD"):
        raise _fault(record, f"it has {len(record.choices)} choices, and Video-MME's script knows A, B, C and D")
    return {
        "task_type": _named(record, "task_type"),
        "question": record.question,
        "options": [f"{_letter(place)}. {text}" for place, text in enumerate(record.choices)],
        "answer": _letter(right),
        "response": "" if chosen is None else _letter(chosen),
    }


def _duration(record: Record) -> object:
    if (duration := _named(record, "duration")) in DURATIONS:
        return duration
    raise _fault(record, f'its "duration" is {duration!r}, which is none of {", ".join(DURATIONS)}')


def _lmms_eval(records: Iterable[Record]) -> _Files:
    """A log for each task, from which lmms-eval's model `from_log` takes its answers; they are known by `doc_id`."""
    logs: dict[str, dict[int, str]] = {}
    for each in records:
        task, answer = logs.setdefault(_file_stem(each), {}), each.answer or ""
        if each.choices and each.chosen is not None:
            answer = _letter(each.chosen)
        if (id := _doc_id(each)) in task:
            raise _fault(each, f'its "doc_id" {id} is in an earlier row, too')
        task[id] = answer
    return {f"{task}.json": _whole(_log(task, answers))[ONE] for task, answers in logs.items()}


def _log(task: str, answers: Mapping[int, str]) -> dict[str, object]:
    return {
        "args": {"model": "vllava", "model_args": "", "tasks": task, "limit": None},
        "model_configs": {"task": task},
        "logs": [{"doc_id": id, "resps": [[answers[id]]]} for id in sorted(answers)],
    }


def _doc_id(record: Record) -> int:
    id = str(_named(record, "doc_id"))
    if not (id.isascii() and id.isdecimal() and len(id) <= _MOST_DIGITS):
        raise _fault(record, f'its "doc_id" is {id!r}, which is not the number of a document')
    return int(id)


def _jsonl(records: Iterable[Record]) -> _Files:
    """A line for each row, in the same form whether it was open, by text or by letter."""
    return {ONE: (_line(_plain(each), each) for each in records)}


def _plain(record: Record) -> dict[str, object]:
    return {
        "id": record.id,
        "path": record.path,
        "question": record.question,
        "choices": list(record.choices),
        "pred": record.answer,
        "pred_place": record.chosen,
        "answer": record.gold,
        "answer_place": record.right,
        "probabilities": list(record.probabilities),
        "error": record.error,
        "fields": {key: value for key, value in record.values.items() if key not in _OWN},
    }


FORMS: Mapping[ExportForm, Form] = {
    "video-llava": Form(_video_llava, "written with an empty pred, which the judge sees"),
    "activitynet-qa": Form(_activitynet_qa, "written as an empty answer, which is counted as wrong"),
    "nextqa": Form(_nextqa, "written as -1, which is counted as wrong"),
    "mvbench": Form(_mvbench, f"written as {NO_ANSWER}, which is counted as wrong"),
    "videomme": Form(_videomme, "written as an empty response, which its script leaves out of the accuracy"),
    "egoschema": Form(_egoschema, "written as -1, which is no place"),
    "lmms-eval": Form(_lmms_eval, "written as an empty response, which each task judges in its own way"),
    "jsonl": Form(_jsonl, "written with null as pred"),
}

OF_FILES: tuple[ExportForm, ...] = ("lmms-eval",)
"""The forms that have several files."""


def _by_id(records: Iterable[Record], key: Callable[[Record], Id]) -> Iterator[tuple[Id, Record]]:
    """Yields each record with its id. Errors: OutputError for an id that comes twice, of which scorers count one."""
    known: dict[str, str] = {}
    for each in records:
        id = key(each)
        if (place := known.setdefault(str(id), _place(each))) != _place(each):
            raise _fault(each, f"its id is {id!r}, as in {place}", "Export the rows of one run, whose ids differ")
        yield id, each


def _own_id(record: Record) -> str | int:
    return _named(record, "question_id", "qid", "job_id", "q_uid")


def _named(record: Record, *names: str) -> str | int:
    """Returns the first of these fields that a row has, a text or a whole number. Errors: OutputError."""
    for name in names:
        value = record.values.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return value
        if value is not None:
            raise _fault(record, f'its "{name}" is neither text nor a whole number')
    raise _fault(record, f"it has no {' or '.join(map(json.dumps, names))}")


def _gold(record: Record) -> str:
    if record.gold is None:
        raise _fault(record, "its right answer isn't known")
    return record.gold


def _right(record: Record) -> int:
    _check_choices(record)
    if record.right is None:
        raise _fault(record, "its right answer isn't known" if record.gold is None else "its right answer is no choice")
    return record.right


def _chosen(record: Record) -> int | None:
    """Returns the place of the answer, None for an error."""
    _check_choices(record)
    return record.chosen


def _place_or_none(record: Record) -> int:
    """Returns the place of the answer, -1 for an error."""
    return -1 if (chosen := _chosen(record)) is None else chosen


def _check_choices(record: Record) -> None:
    if not record.choices:
        raise _fault(record, "it has no choices")


def _task(record: Record) -> str:
    """Returns the task as MVBench names it: its field, else the rows' file: moving_count.jsonl → Moving Count."""
    task = record.values.get("task_type") or record.values.get("task")
    if isinstance(task, str):
        return task
    first, *others = _file_stem(record).split("_")
    # Two of its twenty names have a hyphen: "Fine-grained Action" and "Fine-grained Pose".
    return " ".join([first.capitalize(), *map(str.capitalize, others)]).replace("Fine Grained", "Fine-grained")


def _file_stem(record: Record) -> str:
    """Returns the name of the rows' file, or of the folder whose part it is: 'a/moving_count.jsonl' → moving_count."""
    path = Path(record.file.strip("'"))
    return (path.parent if PART.fullmatch(path.name) else path).name.split(".")[0]


def _stem(record: Record) -> str:
    """Returns the name of the clip: a/4010069381.mp4 → 4010069381."""
    return os.path.splitext(os.path.basename(record.path))[0]  # noqa: PTH119, PTH122


def _letter(place: int) -> str:
    return chr(ord("A") + place)


def _lettered(record: Record, place: int) -> str:
    return f"({_letter(place)}) {record.choices[place]}"


def _place(record: Record) -> str:
    return str(RowPlace(record.file, record.number))


def _fault(
    record: Record, what: str, remedy: str = "Correct the jobs or the --gold file, or choose another --as"
) -> OutputError:
    return OutputError(f"{_place(record)}: {what}. {remedy}.")


def _line(value: Mapping[str, Any], record: Record) -> str:
    """Writes a line of JSON in UTF-8, of which Python's own reader of literals makes the same texts.

    With ASCII alone it wouldn't: a character outside the first plane is two halves there.
    """
    try:
        return json.dumps(portable(value), ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as exc:
        raise _fault(record, "it has an infinite number, which JSON can't hold") from exc
    except RecursionError as exc:
        raise _fault(record, "it is nested too deeply", "Leave the row out") from exc


def _whole(value: object) -> dict[str, list[str]]:
    return {ONE: [json.dumps(value) + "\n"]}
