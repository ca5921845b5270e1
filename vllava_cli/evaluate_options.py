"""Declares the options of `vllava score`, `export` and `report`; `options` has those that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer

from vllava_cli.evaluate.gold import GoldForm
from vllava_cli.nouns import ExportForm
from vllava_cli.options import one_of

_FORMS: tuple[str, ...] = get_args(ExportForm)
RowFiles = Annotated[
    list[Path], typer.Argument(metavar="ROWS...", help="The rows of vllava batch: files, or the folder of its parts.")
]
Gold = Annotated[
    Path | None,
    typer.Option(
        "--gold",
        metavar="FILE",
        help="The right answers, instead of those in the rows: .jsonl, .json, .csv, .tsv, .parquet.",
    ),
]
Form = Annotated[
    ExportForm,
    typer.Option(
        "--as",
        **one_of(*_FORMS) | {"metavar": "SCORER"},
        help=f"The scorer that is to read the answers: {', '.join(_FORMS[:-1])}, or jsonl for others.",
    ),
]
Exported = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write this file; with --as lmms-eval this folder, a file for each task.",
        show_default="stdout",
    ),
]
ReplaceJudged = Annotated[bool, typer.Option("--overwrite", help="Replace files that are already there.")]
"""The same words for the plot of a score, an export and the page of a report."""
QuietJudged = Annotated[bool, typer.Option("--quiet", "-q", help="Only the output and errors.")]
By = Annotated[
    list[str] | None,
    typer.Option(
        "--by", metavar="FIELD", help="Also score each group of rows with an equal FIELD; several may be given."
    ),
]
Against = Annotated[
    Path | None, typer.Option("--against", metavar="ROWS", help="Compare with the rows of another run.")
]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Write a reliability plot: .png, .svg or .pdf.")
]
GoldAs = Annotated[
    GoldForm,
    typer.Option(
        "--gold-as",
        **one_of(*get_args(GoldForm)),
        help="How right answers name choices: by text, letter or place, from 0 or from 1; auto tries them.",
    ),
]
PageFile = Annotated[
    Path,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write the page to this file, .html.", show_default="report.html"
    ),
]
