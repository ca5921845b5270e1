"""Declares the options of `vllava score`, `export` and `report`; `options` has those that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RowFiles = Annotated[
    list[Path], typer.Argument(metavar="ROWS...", help="The rows of vllava batch: files, or the folder of its parts.")
]
Gold = Annotated[
    Path | None,
    typer.Option("--gold", metavar="FILE", help="The right answers, if the rows don't have them: .jsonl, .json, .csv."),
]
By = Annotated[
    list[str] | None,
    typer.Option(
        "--by", metavar="FIELD", help="Also score each group of rows with an equal FIELD; several may be given."
    ),
]
Against = Annotated[
    Path | None, typer.Option("--against", metavar="ROWS", help="Compare with the rows of another run.")
]
Plot = Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="Write a reliability plot: .png or .svg.")]
