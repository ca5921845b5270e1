"""Declares the options of `vllava find`, and makes its nouns of them; `options` has those that it shares."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from vllava_cli.errors import UsageError
from vllava_cli.nouns import WHITE, Framing, Windowing, Wishes
from vllava_cli.options import (
    AsStored,
    AtChapters,
    Background,
    End,
    FitWish,
    Made,
    Overlap,
    Scenes,
    Several,
    Start,
    framing,
    models,
    number,
    one_of,
    positive_time,
    read_by,
    windowing_of,
    wishes_of,
)
from vllava_cli.search.extracts import Extracts
from vllava_cli.search.manner import EVERY_S, PLACES, Manner, places_of, unsure_of
from vllava_cli.times import time_of

FindWords = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[QUERY] [PATH]...",
        help="What to look for, then videos, images and folders of them; - reads paths from stdin. With -e all words "
        "are paths. -r without a path looks in the current folder.",
    ),
]
Queries = Annotated[
    list[str] | None,
    typer.Option("--query", "-e", metavar="QUERY", help="Look for this; several share one look."),
]
AnswerCacheUsed = Annotated[
    bool,
    typer.Option(
        "--answer-cache/--no-answer-cache", help="Keep answers on the disk, so that the same search is free again."
    ),
]
LongModel = Annotated[
    str,
    typer.Option(
        "--model",
        envvar="VLLAVA_MODEL",
        metavar="ID|FOLDER|demo",
        autocompletion=models,
        help="A hub id, a local folder, or demo.",
    ),
]


def searched_windowing(
    *,
    every: Annotated[
        float | None,
        typer.Option(
            **read_by(positive_time),
            metavar="TIME",
            help="Look at each stretch of this length, with eight frames of its own: seconds or h:m:s.",
            show_default=f"{EVERY_S:g}s",
        ),
    ] = None,
    overlap: Overlap = None,
    scenes: Scenes = False,
    at_chapters: AtChapters = False,
) -> Windowing:
    """Makes the windowing of a search, which always has one. Errors: UsageError."""
    length = every or (None if scenes or at_chapters else EVERY_S)
    made = windowing_of(every=length, overlap=overlap, scenes=scenes, at_chapters=at_chapters)
    return replace(made or Windowing(every_s=EVERY_S), tells_still=True)


def searched_framing(
    *,
    fit: FitWish = "crop",
    background: Background = WHITE,
    as_stored: AsStored = False,
    start: Start = None,
    end: End = None,
) -> Framing:
    """Makes the framing of a search: --at names moments, and a search looks everywhere. Errors: UsageError."""
    return framing(fit=fit, background=background, as_stored=as_stored, start=start, end=end)


def manner_of(
    *,
    names: Annotated[bool, typer.Option("--names", "-l", help="Print only the names of files with a hit.")] = False,
    count: Annotated[
        bool, typer.Option("--count", "-c", help="Print how many windows of each file have a hit.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each hit, a line each.")] = False,
    null: Annotated[
        bool, typer.Option("--null", "-0", help="Names end with NUL: those on stdin, and those that -l prints.")
    ] = False,
    invert: Annotated[bool, typer.Option("--invert", "-v", help="Print what is no hit instead.")] = False,
    all: Annotated[
        bool, typer.Option("--all", help="With several -e: all must be there, and the least likely counts.")
    ] = False,
    max_count: Annotated[
        int | None,
        typer.Option(
            "--max-count", "-m", **number(int, 1), help="Leave a file after N windows with a hit.", show_default="all"
        ),
    ] = None,
    first: Annotated[bool, typer.Option("--first", help="Stop everything after the first hit.")] = False,
    threshold: Annotated[
        float | None,
        typer.Option(**number(float, 0, 1, metavar="P"), help="The least score of a hit.", show_default="0.5"),
    ] = None,
    unsure: Annotated[
        Several | None,
        typer.Option(
            **read_by(unsure_of),
            metavar="LOW,HIGH",
            help="Scores from HIGH on are hits; those from LOW on are printed with a ? and don't count as hits.",
            show_default="none",
        ),
    ] = None,
    sort: Annotated[
        str, typer.Option(**one_of("time", "score"), help="score prints the likeliest hits first, at the end.")
    ] = "time",
    where: Annotated[
        Several | None,
        typer.Option(
            "--in",
            **read_by(places_of),
            metavar="PLACES",
            autocompletion=lambda: (*PLACES, ",".join(PLACES)),
            help="Look in what is shown (picture), in the words of the subtitles (text), or in both (text,picture).",
            show_default="picture",
        ),
    ] = None,
    skip_still: Annotated[
        bool,
        typer.Option("--skip-still/--no-skip-still", help="Look once at windows in which nothing changes."),
    ] = True,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing and stop at the first hit: the exit code tells.")
    ] = False,
    no_messages: Annotated[
        bool, typer.Option("--no-messages", "-s", help="Say nothing about files that can't be read.")
    ] = False,
) -> Manner:
    """Makes the manner of a search. Errors: UsageError."""
    if names and count:
        raise UsageError("-l prints names and -c counts. Give one of them.")
    if count and first:
        raise UsageError("-c counts all hits and --first stops at one. Give one of them.")
    if threshold is not None and unsure:
        raise UsageError("--unsure says itself from which score on a window is a hit. Leave --threshold out.")
    if sort == "score" and (names or count):
        raise UsageError("--sort score sorts hits, and -l and -c print none. Leave it out.")
    return Manner(
        form="names" if names else "counts" if count else "hits",
        is_json=json,
        is_null=null,
        order="score" if sort == "score" else "time",
        threshold=0.5 if threshold is None else threshold,
        unsure=(unsure[0], unsure[1]) if unsure else None,
        is_inverted=invert,
        needs_all=all,
        most_hits=max_count,
        is_first_only=first,
        is_silent=quiet,
        is_mute=no_messages,
        skips_still=skip_still,
        places=tuple(where or ("picture",)),
    )


def varied(make: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Returns the maker with other declarations of some options: varied(wishes_of, model=LongModel)."""
    signature = inspect.signature(make, eval_str=True)

    def made(**values: Any) -> Any:
        return make(**values)

    made.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[
            each.replace(annotation=options.get(each.name, each.annotation)) for each in signature.parameters.values()
        ]
    )
    return made


def extracts_of(
    *,
    cut: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Cut the hits out of their clips, and write each into this folder: the coded pictures and sounds as "
            "they are, from the key frame before the hit on. Hits that follow each other become one file.",
            show_default="none",
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="With --cut: code each part again, so that it begins where its hit does.")
    ] = False,
    pad: Annotated[
        float | None,
        typer.Option(
            **read_by(time_of),
            metavar="TIME",
            help="With --cut: how much before and after a hit belongs to its file, too.",
            show_default="0",
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Draw the frames of the hits in this .png or .jpg; many hits take several files, FILE-2 and so on.",
            show_default="none",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Overwrite files that --cut and --sheet made before.")
    ] = False,
) -> Extracts:
    """Makes the extracts of a search: which files are written of its hits. Errors: UsageError."""
    for name, is_given in (("--exact", exact), ("--pad", pad is not None)):
        if is_given and cut is None:
            raise UsageError(f"{name} is about the parts that --cut writes. Give --cut FOLDER, or leave it out.")
    if overwrite and cut is None and sheet is None:
        raise UsageError("--overwrite is about the files of --cut and --sheet. Give one of them, or leave it out.")
    return Extracts(folder=cut, sheet=sheet, is_exact=exact, pad_s=pad or 0.0, is_overwriting=overwrite)


ExtractsMade = Annotated[Extracts, Made(extracts_of)]
SearchWishesMade = Annotated[Wishes, Made(varied(wishes_of, model=LongModel))]
SearchWindowingMade = Annotated[Windowing, Made(searched_windowing)]
SearchFramingMade = Annotated[Framing, Made(searched_framing)]
MannerMade = Annotated[Manner, Made(manner_of)]
