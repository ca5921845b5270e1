"""`vllava find`: asks about each window of the footage whether it shows what is looked for, and prints the hits."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vllava_cli import __version__
from vllava_cli.batch import run as batch_run
from vllava_cli.batch.divide import Division
from vllava_cli.batch.jobs import Job, spelled
from vllava_cli.batch.progress import Progress
from vllava_cli.batch.request import Destination
from vllava_cli.batch.rows import RunInfo
from vllava_cli.errors import INTERRUPTED, MediaError, UsageError, VllavaError
from vllava_cli.interrupt import never
from vllava_cli.media import inputs
from vllava_cli.media.fingerprint import SampledDigest, sampled_digest
from vllava_cli.media.remote.policy import scheme_of, without_secrets
from vllava_cli.nouns import (
    Clip,
    ClipWindows,
    Framing,
    Window,
    Windowing,
    Wishes,
    counted,
)
from vllava_cli.screen import Screen
from vllava_cli.search.answer_store import AnswerStore, key_of, limit_of_store, store_path
from vllava_cli.search.extracts import HitTaker
from vllava_cli.search.hit_output import HitOutput
from vllava_cli.search.query import SearchRequest, questions_of
from vllava_cli.search.said import Said

if TYPE_CHECKING:
    from vllava_cli.media.decoder.pool import Pool

HIT, NO_HIT, TROUBLE = 0, 1, 2
_WINDOW = tuple(each.name for each in fields(Window))


def run(search: SearchRequest, screen: Screen) -> int:
    """Returns the exit code, as grep has it: 0 hits, 1 none, 2 trouble, also beside hits; 130 after Ctrl-C."""
    try:
        return _run(search, screen)
    except VllavaError as exc:
        if exc.exit_code != 1:
            raise
        screen.error(str(exc))  # 1 would say that there is no hit
        return TROUBLE


def _run(search: SearchRequest, screen: Screen) -> int:
    complaints: list[str] = []
    clips = _clips(search, complaints.append, screen)
    for complaint in () if search.manner.is_mute else complaints:
        screen.error(complaint)
    if not clips:
        return TROUBLE if complaints else NO_HIT
    for query in search.queries:
        screen.detail(f"{query!r} is asked as: {' '.join(questions_of(query))}")
    most_bytes = limit_of_store() if search.has_answer_cache else 0
    path = store_path() if most_bytes else None
    with ExitStack() as stack:
        store = stack.enter_context(closing(AnswerStore(path, most_bytes=most_bytes, notice=screen.notice)))
        said = None
        if "text" in search.manner.places:
            tell = str if search.manner.is_mute else screen.notice
            said = stack.enter_context(closing(Said(search.queries, search.limits, tell)))
        takers = [stack.enter_context(closing(taker)) for taker in takers_of(search, clips, screen)]
        division = KeptDivision(store=store)
        outputs: list[HitOutput] = []

        @contextmanager
        def opened(
            _: Destination, jobs: Sequence[Job], info: RunInfo, screen: Screen, **others: Any
        ) -> Iterator[HitOutput]:
            state = model_state(search.wishes) if store.is_open else None
            digests = division.digests
            out = HitOutput(
                search, info, screen, store=store, digests=digests, model_state=state, takers=takers, said=said
            )
            outputs.append(out)
            with closing(out):
                out.prepare(jobs, **others)
                yield out

        ends = batch_run.Ends(open_output=opened, report=_report, division=lambda: division)
        code = batch_run.run(search.batch(clips), screen, ends)
    (out,) = outputs
    return INTERRUPTED if code == INTERRUPTED else _exit_code(out, has_complaints=bool(complaints))


def takers_of(search: SearchRequest, clips: Sequence[str], screen: Screen) -> Iterator[HitTaker]:
    """Makes those that write files of the hits. Errors: UsageError, OutputError, CheckpointError."""
    extracts = search.extracts
    if extracts.folder is not None:
        from vllava_cli.search.cut_files import CutFiles

        yield CutFiles(extracts, list(map(spelled, clips)), screen, search.limits)
    if extracts.sheet is not None:
        from vllava_cli.commands.frames import recipe_of
        from vllava_cli.search.hit_sheet import HitSheet

        yield HitSheet(extracts, search.queries, screen, search.framing, recipe_of(search.wishes.model, screen))


def _exit_code(out: HitOutput, *, has_complaints: bool) -> int:
    if out.hits and out.manner.is_silent:
        return HIT
    return TROUBLE if out.has_trouble or has_complaints else HIT if out.hits else NO_HIT


def _clips(search: SearchRequest, complain: Callable[[str], None], screen: Screen) -> list[str]:
    """Finds the clips. Errors: UsageError, also for a URL."""
    clips = inputs.paths(
        search.paths,
        stdin=sys.stdin.buffer if sys.stdin else None,
        is_recursive=search.is_recursive,
        is_null=search.manner.is_null,
        tell=complain,
        notice=lambda text: screen.notice(f"vllava: {text}"),
    )
    for clip in clips:
        if "://" in clip and scheme_of(clip):
            raise UsageError(f"{without_secrets(clip)} is a URL, and find reads files. Copy it here first.")
    return clips


def _report(progress: Progress, screen: Screen, *, is_interrupted: bool, **_: object) -> None:
    if is_interrupted:
        screen.error(f"Interrupted with {counted(progress.left, 'question')} left.")


def model_state(wishes: Wishes) -> object:
    """Returns names, sizes and dates of the files of a model in a folder; None for the hub's, whose revision tells."""
    from vllava_cli.engine.hub import find_here, is_local

    if not is_local(wishes.model) or (source := find_here(wishes.model)) is None:
        return None
    files = ((path.name, path.stat()) for path in sorted(source.folder.iterdir()) if path.is_file())
    return [[name, facts.st_size, facts.st_mtime_ns] for name, facts in files]


@dataclass(kw_only=True)
class KeptDivision(Division):
    """Knows the windows of clips that an earlier search has divided in the same way."""

    store: AnswerStore
    digests: dict[str, SampledDigest] = field(default_factory=dict)
    """The digest of each clip, by its path; those that can't be read have none."""

    def divide(
        self,
        paths: Iterable[str],
        pool: Pool,
        windowing: Windowing,
        framing: Framing,
        *,
        is_interrupted: Callable[[], bool] = never,
    ) -> None:
        keys: dict[str, bytes | None] = {}
        for clip in dict.fromkeys(map(spelled, paths)):
            keys[clip] = self._key(clip, windowing, framing)
            if (key := keys[clip]) and (kept := _windows(clip, self.store.find(key))):
                self.windows[clip] = kept
        unknown = [clip for clip in keys if clip not in self.windows]
        try:
            super().divide(unknown, pool, windowing, framing, is_interrupted=is_interrupted)
        finally:
            for clip in unknown:
                if (found := self.windows.get(clip)) and (key := keys[clip]):
                    self.store.put(key, _value(found))

    def _key(self, clip: str, windowing: Windowing, framing: Framing) -> bytes | None:
        if not self.store.is_open:
            return None
        try:
            digest = self.digests[clip] = sampled_digest(Path(clip))
        except MediaError:
            return None
        return key_of("windows", __version__, digest.sha256, asdict(windowing), asdict(framing))


def _value(found: ClipWindows) -> dict[str, Any]:
    facts = asdict(found.clip)
    del facts["path"]
    return {"clip": facts, "windows": [[getattr(window, name) for name in _WINDOW] for window in found.windows]}


def _windows(clip: str, value: Any) -> ClipWindows | None:
    """Reads the windows of a clip that are kept; None if there are none."""
    try:
        stored = value["clip"].items()
        facts: dict[str, Any] = {name: tuple(fact) if isinstance(fact, list) else fact for name, fact in stored}
        windows = tuple(Window(**dict(zip(_WINDOW, each, strict=True))) for each in value["windows"])
        return ClipWindows(clip=Clip(path=Path(clip), **facts), windows=windows)
    except (TypeError, ValueError, KeyError, AttributeError):
        return None
