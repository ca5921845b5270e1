"""`vllava export`: writes the rows of a batch in the form that another scorer reads. No model takes part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vllava_cli.screen import Screen

ExportForm = Literal["video-llava", "activitynet-qa", "nextqa", "mvbench", "videomme", "lmms-eval", "jsonl"]
EXPORT_FORMS: tuple[ExportForm, ...] = get_args(ExportForm)


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The request of one `vllava export`."""

    rows: tuple[Path, ...]
    form: ExportForm
    gold: Path | None = None
    output: Path | None = None
    """A file, or a folder where the form has several files; None is stdout."""
    is_overwriting: bool = False


def run(request: ExportRequest, screen: Screen) -> int:
    """Returns the exit code. Errors: any VllavaError."""
    raise NotImplementedError
