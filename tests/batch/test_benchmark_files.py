"""Annotation files in the shapes in which benchmarks publish theirs become the requests that they mean.

The contents are ours; the names of fields, the nesting and the ways to write options and times are theirs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from vllava_cli.batch.job_files import requests_in
from vllava_cli.batch.jobs import JobRequest
from vllava_cli.nouns import Window

pytestmark = pytest.mark.usefixtures("in_a_folder")
WHERE, WHO = "Where is the cup?", "Who waves?"


def asked(
    path: str,
    question: str,
    choices: Sequence[str] = (),
    part: tuple[float, float] | None = None,
    /,
    **fields: object,
) -> JobRequest:
    window = Window(start_s=part[0], end_s=part[1]) if part else None
    return JobRequest(path=path, question=question, choices=tuple(choices), window=window, fields=fields)


NEXT_QA = ("frame_count", "width", "height", "job_answer", "qid", "type")
FILES: Mapping[str, tuple[str, object, list[JobRequest]]] = {
    "MVBench": (
        "action_antonym.json",
        [
            {"video": "a.webm", "question": WHERE, "candidates": ["On it", "In it"], "answer": "In it"},
            {
                "video": "b.mp4",
                "question": WHO,
                "candidates": ["Ann", "Bo"],
                "answer": "Bo",
                "start": 2.5,
                "end": 7,
                "accurate_start": 3.1,
                "fps": 3,
            },
        ],
        [
            asked("a.webm", WHERE, ["On it", "In it"], job_answer="In it"),
            asked("b.mp4", WHO, ["Ann", "Bo"], (2.5, 7.0), job_answer="Bo", accurate_start=3.1, fps=3),
        ],
    ),
    "NExT-QA and IntentQA": (
        "val.csv",
        "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4\n"
        'a.mp4,90,64,48,where is the cup,1,6,CW,"on it, left",under it,gone,hidden,held\n',
        [
            asked(
                *("a.mp4", "where is the cup", ["on it, left", "under it", "gone", "hidden", "held"]),
                **dict(zip(NEXT_QA, ("90", "64", "48", "1", "6", "CW"), strict=True)),
            )
        ],
    ),
    "EgoSchema": (
        "questions.json",
        [{"q_uid": "0-a", "video": "a.mp4", "question": WHO, "option 0": "C", "option 1": "Ann", "option 2": "Bo"}],
        [asked("a.mp4", WHO, ["C", "Ann", "Bo"], q_uid="0-a")],
    ),
    "Video-MME": (
        "test.json",
        [
            {
                "video_id": "001",
                "video": "a.mp4",
                "duration": "short",
                "questions": [
                    {"question_id": "001-1", "question": WHERE, "options": ["A. On it.", "B. In it."], "answer": "B"},
                    {"question_id": "001-2", "question": WHO, "options": ["A. Ann.", "B. Bo."], "answer": "A"},
                ],
            }
        ],
        [
            asked(
                *("a.mp4", question, options),
                video_id="001",
                duration="short",
                question_id=number,
                job_answer=answer,
            )
            for question, options, number, answer in (
                (WHERE, ["On it.", "In it."], "001-1", "B"),
                (WHO, ["Ann.", "Bo."], "001-2", "A"),
            )
        ],
    ),
    "STAR": (
        "STAR_val.json",
        [
            {
                "question_id": "Interaction_T1_0",
                "question": WHO,
                "video_id": "a",
                "start": 1.2,
                "end": 4.0,
                "choices": [
                    {"choice_id": 0, "choice": "Ann.", "choice_program": []},
                    {"choice_id": 1, "choice": "Bo.", "choice_program": []},
                ],
            }
        ],
        [asked("a", WHO, ["Ann.", "Bo."], (1.2, 4.0), question_id="Interaction_T1_0")],
    ),
    "TVQA": (
        "tvqa_val.jsonl",
        [
            {"q": WHO, "qid": 7, "ts": "1.21-8.49", "video": "a", "answer_idx": 1, "a0": "Ann", "a1": "Bo"},
            {"q": WHO, "qid": 8, "ts": "nan-nan", "video": "a", "a1": "Bo", "a0": "Ann"},
            {"q": WHO, "qid": 9, "ts": [5.5, 11], "video": "a", "a0": "Ann", "a1": "Bo"},
        ],
        [
            asked("a", WHO, ["Ann", "Bo"], (1.21, 8.49), qid=7, answer_idx=1),
            asked("a", WHO, ["Ann", "Bo"], qid=8, ts="nan-nan"),
            asked("a", WHO, ["Ann", "Bo"], (5.5, 11.0), qid=9),
        ],
    ),
    "Perception Test": (
        "mc_question_valid.json",
        {
            "video_7": {
                "metadata": {"split": "valid", "num_frames": 90},
                "mc_question": [
                    {"id": 0, "question": WHERE, "options": ["on it", "in it"], "answer_id": 1, "tag": ["place"]},
                    {"id": 1, "question": WHO, "options": ["ann", "bo"], "answer_id": 0, "tag": []},
                ],
            }
        },
        [
            asked("video_7", WHERE, ["on it", "in it"], job_id=0, answer_id=1, tag=["place"]),
            asked("video_7", WHO, ["ann", "bo"], job_id=1, answer_id=0, tag=[]),
        ],
    ),
    "LongVideoBench": (
        "val.jsonl",
        [
            {
                "video_path": "a.mp4",
                "question": WHO,
                "option0": "Ann",
                "option1": "Bo",
                "option2": "N/A",
                "option3": "N/A",
            }
        ],
        [asked("a.mp4", WHO, ["Ann", "Bo"])],
    ),
    "MLVU": (
        "plotQA.json",
        [{"video": "a.mp4", "duration": 48.6, "question": WHO, "candidates": ["Ann", "Bo"], "question_type": "plot"}],
        [asked("a.mp4", WHO, ["Ann", "Bo"], duration=48.6, question_type="plot")],
    ),
    "Neptune and MINERVA": (
        "minerva.json",
        [{"key": "a:1", "video_id": "a", "question": WHO, "answer_choice_0": "Ann", "answer_choice_1": "Bo"}],
        [asked("a", WHO, ["Ann", "Bo"], key="a:1")],
    ),
    "TempCompass": (
        "yes_no.json",
        {
            "12": {
                "action": [{"question": "Does it move?", "answer": "yes"}],
                "speed": [{"question": WHO, "answer": "Ann"}],
            },
            "13": {"speed": [{"question": WHERE, "answer": "there"}]},
        },
        [
            asked("12", "Does it move?", group="action", job_answer="yes"),
            asked("12", WHO, group="speed", job_answer="Ann"),
            asked("13", WHERE, group="speed", job_answer="there"),
        ],
    ),
    "Video-ChatGPT": (
        "generic_qa.json",
        [{"Q": WHO, "A": "Ann.", "video_name": "v_1"}, {"Q1": WHO, "Q2": WHERE, "A": "Bo.", "video_name": "v_2"}],
        [
            asked("v_1", WHO, job_answer="Ann."),
            asked("v_2", WHO, job_answer="Bo."),
            asked("v_2", WHERE, job_answer="Bo."),
        ],
    ),
    "ActivityNet-QA, MSVD-QA": (
        "test_q.json",
        [{"video_name": "1Qx", "question": "is there a hat", "question_id": "v_1Qx_3"}],
        [asked("1Qx", "is there a hat", question_id="v_1Qx_3")],
    ),
    "MSRVTT-QA, with annotations in an object": (
        "val_qa.json",
        {"info": {"year": 2016}, "annotations": [{"video": "video7", "question": WHO, "answer": "ann", "id": 3}]},
        [asked("video7", WHO, job_answer="ann", job_id=3)],
    ),
    "VLMEvalKit's tables": (
        "bench.tsv",
        "index\tvideo\tquestion\tA\tB\tC\tcandidates\n"
        f"0\ta.mp4\t{WHO}\tAnn\tBo\t\t\n1\ta.mp4\t{WHERE}\t\t\t\t['On it', \"Ann's\"]\n",
        [
            asked("a.mp4", WHO, ["Ann", "Bo"], index="0", candidates=""),
            asked("a.mp4", WHERE, ["On it", "Ann's"], index="1", A="", B="", C=""),
        ],
    ),
    "LLaVA's conversations": (
        "train.json",
        [
            {
                "id": "7",
                "video": "a.mp4",
                "conversations": [
                    {"from": "human", "value": f"<video>\n{WHO}"},
                    {"from": "gpt", "value": "Ann."},
                    {"from": "human", "value": f"{WHERE}\n<video>"},
                ],
            }
        ],
        [asked("a.mp4", WHO, job_id="7", job_answer="Ann."), asked("a.mp4", WHERE, job_id="7")],
    ),
    "a list of objects with their pairs": (
        "a.json",
        [{"video": "a.mp4", "id": 1, "extra": {"x": 1}, "qa": [{"q": WHO, "a": "Ann", "id": 5}, {"q": WHERE}]}],
        [asked("a.mp4", WHO, outer_id=1, job_id=5, job_answer="Ann"), asked("a.mp4", WHERE, job_id=1)],
    ),
    "pairs without names": (
        "a.jsonl",
        [{"video": "a.mp4", "qa_pairs": [[WHO, "Ann"]]}, {"video": "a.mp4", "questions": [WHO, WHERE]}],
        [asked("a.mp4", WHO, job_answer="Ann"), asked("a.mp4", WHO), asked("a.mp4", WHERE)],
    ),
    "columns": (
        "a.json",
        {"video": ["a.mp4", "b.mp4"], "question": [WHO, WHERE], "options": [["Ann", "Bo"], ["in", "on"]]},
        [asked("a.mp4", WHO, ["Ann", "Bo"]), asked("b.mp4", WHERE, ["in", "on"])],
    ),
    "columns as pandas writes them": (
        "a.json",
        {"video": {"0": "a.mp4", "1": "b.mp4"}, "question": {"0": WHO, "1": WHERE}, "start": {"0": 1, "1": None}},
        [asked("a.mp4", WHO, (), (1.0, math.inf)), asked("b.mp4", WHERE)],
    ),
    "objects by the names of questions": (
        "a.json",
        {"q1": {"video": "a.mp4", "question": WHO}, "q2": {"video": "b.mp4", "question": WHERE}},
        [asked("a.mp4", WHO, key="q1"), asked("b.mp4", WHERE, key="q2")],
    ),
    "objects by the names of clips": (
        "a.json",
        {"a.mp4": {"question": WHO}, "b.mp4": {"question": WHERE}},
        [asked("a.mp4", WHO), asked("b.mp4", WHERE)],
    ),
    "lists by the names of clips": (
        "a.json",
        {"a.mp4": [{"question": WHO}, {"question": WHERE}]},
        [asked("a.mp4", WHO), asked("a.mp4", WHERE)],
    ),
    "one list among other facts": (
        "a.json",
        {"version": 1, "val": [{"video": "a.mp4", "question": WHO}]},
        [asked("a.mp4", WHO)],
    ),
    "questions beside facts": (
        "a.json",
        {"version": "2", "info": {"x": 1}, "questions": [{"video": "a.mp4", "question": WHO}]},
        [asked("a.mp4", WHO, version="2")],
    ),
    "one object": ("a.json", {"video": "a.mp4", "question": WHO}, [asked("a.mp4", WHO)]),
    "semicolons, with a comma in a name": (
        "a.csv",
        '\ufeff"video"; "the question, asked";"question";start;end\r\na.mp4;x;Why?;0,5;00:00:01,500\r\n',
        [asked("a.mp4", "Why?", (), (0.5, 1.5), **{"the question, asked": "x"})],
    ),
    "commas in a .tsv": ("a.tsv", "video,question\na.mp4,Why?\n", [asked("a.mp4", "Why?")]),
    "spaces before quotes": ("a.csv", '"video", "question"\n"a.mp4", "Why, so?"\n', [asked("a.mp4", "Why, so?")]),
}


def written(name: str, content: object) -> Path:
    lines = [json.dumps(row) for row in content] if isinstance(content, list) else []
    text = "\n".join(lines) if name.endswith(".jsonl") else json.dumps(content)
    Path(name).write_text(content if isinstance(content, str) else text)
    return Path(name)


@pytest.mark.parametrize("benchmark", FILES)
def test_the_files_of_benchmarks_are_read_as_they_are(benchmark: str) -> None:
    name, content, expected = FILES[benchmark]
    assert list(requests_in(written(name, content), stdin=None, videos=(), questions=())) == expected


def test_frames_in_a_folder_are_a_clip() -> None:
    Path("frames/a").mkdir(parents=True)
    file = written("a.json", [{"video": "a", "question": WHO, "start": 1, "end": 3}])
    found = list(requests_in(file, stdin=None, videos=(Path("frames"),), questions=()))
    assert found == [asked("frames/a", WHO, (), (1.0, 3.0))]
