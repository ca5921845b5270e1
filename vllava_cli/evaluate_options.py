"""Declares the options of `vllava score`, `export` and `report`; `options` has those that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

import typer

from vllava_cli.evaluate.gold import GoldForm
from vllava_cli.options import one_of

RowFiles = Annotated[
    list[Path], typer.Argument(metavar="ROWS...", help="The rows of vllava batch: files, or the folder of its parts.")
]
Gold = Annotated[
    Path | None,
    typer.Option(
        "--gold", metavar="FILE", help="The right answers, if the rows don't have them: .jsonl, .json, .csv, .tsv."
    ),
]
Form = Annotated[
    Literal["video-llava", "activitynet-qa", "nextqa", "mvbench", "videomme", "egoschema", "lmms-eval", "jsonl"],
    typer.Option(
        "--as",
        **one_of("video-llava", "activitynet-qa", "nextqa", "mvbench", "videomme", "egoschema", "lmms-eval", "jsonl")
        | {"metavar": "SCORER"},
        help="The scorer that is to read the answers: video-llava, activitynet-qa, nextqa, mvbench, videomme, "
        "egoschema, lmms-eval, or jsonl for others.",
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
ReplaceExported = Annotated[bool, typer.Option("--overwrite", help="Replace files that are already there.")]
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
    Path, typer.Option("--output", "-o", metavar="FILE", help="Write the page here.", show_default="report.html")
]
Replace = Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there already.")]
