"""`vllava report`: shows the rows of a batch on one page of HTML, with the frames that the model saw."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli import __version__
from vllava_cli.commands.sheets import check_free, check_unread, make_folder
from vllava_cli.errors import UsageError, quoted
from vllava_cli.evaluate.gold import GoldForm
from vllava_cli.evaluate.records import beside_clips, read_records
from vllava_cli.evaluate.report_sections import VERDICTS, Contents, Shot, contents_of
from vllava_cli.evaluate.report_sheets import GONE, SheetFolder
from vllava_cli.evaluate.row_files import files_of
from vllava_cli.nouns import DecodeLimits, counted
from vllava_cli.screen import Screen
from vllava_cli.storage.files import Part, check_regular
from vllava_cli.times import stamp

if TYPE_CHECKING:
    from jinja2 import Environment

LARGE_BYTES = 100_000_000
_FOLDER = Path(__file__).parent
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]")


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """The request of one `vllava report`."""

    rows: tuple[Path, ...]
    output: Path
    gold: Path | None = None
    gold_form: GoldForm = "auto"
    is_overwriting: bool = False
    decoders: int | None = None
    limits: DecodeLimits = field(default_factory=DecodeLimits)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The contact sheet of one clip on the page, or a note in its place."""

    uri: str
    """The picture as a data URI; "" if there is none."""
    alt: str
    note: str
    is_changed: bool


def run(request: ReportRequest, screen: Screen) -> int:
    """Writes the page; returns the exit code 0, also if some clips can't be shown. Errors: any VllavaError.

    KeyboardInterrupt goes through; the sheets that are made by then are kept for the next time.
    """
    if not request.is_overwriting:
        check_free(request.output, "Give --overwrite to replace it, or another name with -o.")
    check_regular(request.output)
    environment = environment_of()
    check_unread(request.output, (*files_of(request.rows), *filter(None, [request.gold])))
    if request.output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--output {quoted(request.output)}: the page is HTML. Give a name that ends with .html.")
    records = read_records(request.rows, request.gold, request.gold_form, notice=screen.notice)
    contents = contents_of(beside_clips(records, request.output))
    if not contents.sections:
        raise UsageError(f"{', '.join(map(quoted, request.rows))} has no row. Give the rows of vllava batch.")
    shots = list(dict.fromkeys(section.shot for section in contents.sections))
    make_folder(request.output.parent)
    sheets = SheetFolder.beside(request.output, len(shots))
    with Part(request.output) as part:  # locked from here on: a second report would remove the sheets of this one
        try:
            sheets.make(shots, screen, decoders=request.decoders, limits=request.limits)
        except KeyboardInterrupt:
            screen.error(f"Interrupted. The same command goes on with the sheets in {quoted(sheets.folder)}.")
            raise
        _tell(shots, sheets, screen)
        part.fill(piece.encode() for piece in page(contents, sheets, environment))
        sheets.remove()
    size_bytes = request.output.stat().st_size
    if size_bytes > LARGE_BYTES:
        screen.notice(
            f"vllava: {quoted(request.output)} has {size_bytes / 1e6:,.0f} MB, which a browser opens slowly. "
            "Make a page of fewer rows."
        )
    screen.answer(f"{request.output}\n")
    return 0


def page(contents: Contents, sheets: SheetFolder, environment: Environment) -> Iterator[str]:
    """Yields the page in pieces, so that the pictures of only one clip are held at a time."""
    from markupsafe import Markup

    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return environment.get_template("report.html.j2").generate(
        version=__version__,
        title=f"{counted(contents.rows, 'answer')} about {counted(len(contents.sections), 'clip')}",
        contents=contents,
        scores=scores(contents),
        verdicts=VERDICTS,
        answers={answer: place for place, answer in enumerate(contents.listed_answers, 1)},
        numbers={pair: place for place, pair in enumerate(contents.group_values, 1)},
        sections=((section, _picture(section.shot, sheets)) for section in contents.sections),
        policy=f"default-src 'none'; img-src data:; style-src {digest(style)}; script-src {digest(script)}; "
        "base-uri 'none'; form-action 'none'",
        style=Markup(style),
        script=Markup(script),
    )


def scores(contents: Contents) -> list[str]:
    """Says how many of the answers with a known right answer are right, as far as there are any."""
    right, wrong, differing = (contents.verdicts[verdict] for verdict in ("right", "wrong", "differs"))
    known = right + wrong + differing
    return (
        [f"{right:,} of the {known:,} answers whose right answer is known are right: {right / known:.1%}."]
        if known
        else []
    )


def environment_of() -> Environment:
    """Makes the Jinja2 environment, in which each text is escaped. Errors: UsageError if Jinja2 isn't installed."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as exc:
        raise UsageError("vllava report needs Jinja2, which isn't installed: pip install 'vllava[evaluate]'.") from exc
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def visible(value: object) -> object:
    """Makes characters visible that would hide or reorder others: "a\\x1bb" → "a\\\\x1bb"; markup stays as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    seen = _INVISIBLE.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
    return seen.encode("utf-8", "backslashreplace").decode()


def digest(text: str) -> str:
    """Returns the source expression of a style or a script in a Content-Security-Policy: 'sha256-…'."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _picture(shot: Shot, sheets: SheetFolder) -> Picture:
    from markupsafe import Markup

    data = sheets.read(shot)
    times = ", ".join(stamp(time_s) for time_s in shot.times_s)
    return Picture(
        uri=Markup(f"data:image/webp;base64,{base64.b64encode(data).decode()}") if data else "",
        alt=f"The frames that the model saw of {shot.path}" + (f", at {times}" if times else ""),
        note=sheets.notes.get(shot, ""),
        is_changed=bool(data) and sheets.has_changed(shot),
    )


def _tell(shots: list[Shot], sheets: SheetFolder, screen: Screen) -> None:
    """Says once how many clips can't be shown, and which is the first."""
    if missing := [shot for shot in shots if shot in sheets.notes]:
        first = missing[0]
        is_elsewhere = {sheets.notes.get(shot) for shot in shots} == {GONE} and not Path(first.path).is_absolute()
        where = " Run it in the folder from which batch was run: relative paths begin there." if is_elsewhere else ""
        screen.notice(
            f"vllava: {len(missing):,} of {counted(len(shots), 'clip')} can't be shown, first {first.path}: "
            f"{sheets.notes[first]}{where}"
        )
    if changed := sum(sheets.has_changed(shot) for shot in shots if shot not in sheets.notes):
        screen.notice(f"vllava: {counted(changed, 'clip')} changed after the rows were made; the page says which.")
