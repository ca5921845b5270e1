"""Rows about the demo's clips, and the report of them, for the tests of reports."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.evaluate.judging import row, write
from vllava_cli import demo
from vllava_cli.evaluate.report import ReportRequest, run
from vllava_cli.screen import Screen

RED, BLUE, IMAGE = (
    demo.CLIPS / name for name in ("red-circle-moves-left.mp4", "blue-star-grows.mp4", "two-shapes.png")
)
RED_TIMES_S = (0.0, 0.2917, 0.625, 0.9167, 1.25, 1.5417, 1.875, 2.1667)
HOSTILE = "Is it </script><img src=https://elsewhere.example/x onerror=\"alert('1')\"> \u202egnp.\x1b[31m {{ 7 * 7 }}?"


def made_with(**framing: Any) -> dict[str, Any]:
    """What a row says about how its clip was shown."""
    clip = {"bytes": None, "sha256": None, "start_s": None, "end_s": None, "at_s": []} | framing
    sampling = {"max_new_tokens": 512, "temperature": 0.0, "top_p": 1.0, "choices": ["red", "blue"]}
    return {"fit": "crop", "device": "cpu", "versions": {"torch": "2.13.0"}, "clips": [clip], "sampling": sampling}


def asked(path: Path, question: str, answer: str | None = "red", **fields: Any) -> dict[str, Any]:
    """A row about a clip as it is on the disk now."""
    state = None
    if path.exists():
        facts = path.stat()
        state = {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns}
    return row(
        str(path), question, answer, **({"clip_state": state, "made_with": made_with(), "seconds": 0.25} | fields)
    )


def rows(gone: Path) -> list[dict[str, Any]]:
    """Seven rows about four clips: two right, one wrong, one differing, two without a right answer, one error."""
    colours = {"choices": ["red", "blue"], "chances": {"red": 0.9, "blue": 0.1}, "frame_times_s": list(RED_TIMES_S)}
    letters = {"choices": ["left", "right"], "chances": {"A": 0.6, "B": 0.4}}
    part = {"made_with": made_with(start_s=0.5, end_s=1.0), "start_s": 0.5, "end_s": 1.0, "title": "Growing"}
    return [
        asked(RED, "What colour is the circle?", job_answer="red", type="colour", **colours),
        asked(RED, "Where does it go?", "A", job_answer="B", type="motion", **letters),
        asked(
            RED, HOSTILE, "A <b>red</b> circle.", type="open", made_with=made_with(), frame_times_s=list(RED_TIMES_S)
        ),
        asked(BLUE, "What is it?", "A blue star.", job_answer="the Blue star", type="open", **part),
        asked(IMAGE, "How many shapes are there?", "Three.", job_answer="two", type="count"),
        asked(IMAGE, "Is there a circle?", "No.", type="count"),
        asked(gone, "What is there?", error="missing", made_with=None, type="open"),
    ]


def report(folder: Path, found: Sequence[Mapping[str, Any]], **wishes: Any) -> tuple[Path, str, str]:
    """Makes the report of rows; returns its file, and what was said on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    request = ReportRequest(
        **({"rows": (write(folder / "rows.jsonl", found),), "output": folder / "report.html"} | wishes)
    )
    assert run(request, Screen(out=out, err=err)) == 0
    return request.output, out.getvalue(), err.getvalue()
