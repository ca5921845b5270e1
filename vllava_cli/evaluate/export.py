"""`vllava export`: writes the rows of a batch in the form that another scorer reads. No model takes part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

from vllava_cli.commands.sheets import check_free, check_unread
from vllava_cli.errors import OutputError, UsageError, quoted
from vllava_cli.evaluate.export_forms import FORMS, OF_FILES, ONE
from vllava_cli.evaluate.gold import GoldForm
from vllava_cli.evaluate.records import Record, beside_clips, read_records
from vllava_cli.evaluate.row_files import files_of
from vllava_cli.nouns import ExportForm, counted
from vllava_cli.screen import Screen
from vllava_cli.storage.files import as_output_error, atomic_write

_FREE = "Give --overwrite to replace it, or another name with -o."


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The request of one `vllava export`."""

    rows: tuple[Path, ...]
    form: ExportForm
    gold: Path | None = None
    gold_form: GoldForm = "auto"
    output: Path | None = None
    """A file, or a folder where the form has several files; None is stdout."""
    is_overwriting: bool = False


def run(request: ExportRequest, screen: Screen) -> int:
    """Returns the exit code. Errors: any VllavaError; nothing is written if a row doesn't fit the form."""
    form, errors = FORMS[request.form], count()
    _check(request)
    records = _counted(
        read_records(request.rows, request.gold, request.gold_form, notice=screen.notice), request, errors
    )
    files = {_target(request, name): lines for name, lines in form.files(records).items()}
    read = (*files_of(request.rows), *filter(None, [request.gold]))
    for output in filter(None, files):
        check_unread(output, read)
    if not request.is_overwriting:
        for target in files:
            if target:
                check_free(target, _FREE)
    for target, lines in files.items():
        _write(target, lines, screen)
    if unanswered := next(errors):
        screen.notice(f"vllava: {counted(unanswered, 'row')} without an answer: {form.unanswered}.")
    return 0


def _check(request: ExportRequest) -> None:
    """Raises an error for an output that can't be written, before rows are read."""
    if request.form in OF_FILES:
        if request.output is None or request.output.is_file():
            raise UsageError(f"--as {request.form} has a file for each task: give -o FOLDER.")
    elif request.output and not request.is_overwriting:
        check_free(request.output, _FREE)


def _counted(records: Iterator[Record], request: ExportRequest, errors: count[int]) -> Iterator[Record]:
    """Yields the records; each error makes `errors` count. Errors: OutputError if there is none."""
    first = next(records, None)
    if first is None:
        raise OutputError(f"{quoted(request.rows[0])} has no rows. Name the output of vllava batch.")
    for each in beside_clips(chain((first,), records), request.output):
        if each.error is not None:
            next(errors)
        yield each


def _target(request: ExportRequest, name: str) -> Path | None:
    return request.output / name if request.output and name != ONE else request.output


def _write(target: Path | None, lines: Iterable[str], screen: Screen) -> None:
    if target is None:
        for line in lines:
            screen.answer(line)
        return
    with as_output_error(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(target, (line.encode() for line in lines))
