"""`vllava chat`: opens the conversation, then reads an entry and carries it out, until the input ends."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.answers import Conversation, Sampling
from vllava_cli.commands.asked import AnswerForm
from vllava_cli.commands.chat.commands import perform
from vllava_cli.commands.chat.controller import ChatController
from vllava_cli.commands.chat.input import Lines, TerminalLines, lines_for
from vllava_cli.commands.chat.recorder import SessionRecorder, clips_of, find_session, utc_now
from vllava_cli.commands.reach import LIGHT_MODULES, engine_by, found
from vllava_cli.commands.start import keep_clips, prepare, start
from vllava_cli.errors import INTERRUPTED, StdoutError, UsageError, VllavaError
from vllava_cli.imports import MODEL_MODULES
from vllava_cli.interrupt import GracefulExit
from vllava_cli.nouns import (
    DEMO_MODEL,
    OFF,
    Checkpoint,
    DecodeLimits,
    Framing,
    Wishes,
)
from vllava_cli.screen import Screen
from vllava_cli.storage.jsonl import Journal
from vllava_cli.storage.session_file import SessionRecord, resume, sessions_folder
from vllava_cli.times import BEGAN_S, Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.answering import AnswerEngine
    from vllava_cli.engine.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Chat:
    """The request of one `vllava chat`."""

    clips: tuple[Path, ...]
    wishes: Wishes
    is_model_named: bool
    """True if the command line names a model, which then replaces a session's own."""
    framing: Framing
    sampling: Sampling
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    output: AnswerForm = "stream"
    continued: str | None = None
    """The id of the session to go on with, or LAST."""
    session: Path | None = None
    has_clip_cache: bool = True
    server: str = OFF
    """The same as in `Ask`."""


def run(chat: Chat, screen: Screen) -> int:
    """Answers until the input ends; returns 0, 1 if a line of a pipe failed, 130 if Ctrl-C ended a pipe's chat.

    Errors: any VllavaError.
    """
    with ExitStack() as ends:
        file, record = _session(chat)
        if file:
            ends.callback(file.close)
        if record and chat.clips:  # the command line that began a session also goes on with it
            known = {path for path, _ in clips_of(record)}
            if other := next((clip for clip in chat.clips if clip.absolute() not in known), None):
                raise UsageError(
                    f"The session isn't about '{other}'. Leave this clip out, and /open or /add it in the chat."
                )
        controller = _controller(of_session(chat, record), file, record, screen, ends)
        controller.ending = ends.enter_context(GracefulExit.watched())
        lines = _lines(controller)
        ends.callback(controller.close)
        return _loop(controller, lines)


def of_session(chat: Chat, record: SessionRecord | None) -> Chat:
    """Returns the chat with the session's framing and, unless a model was named, its model and adapter."""
    if record is None:
        return chat
    wishes = chat.wishes
    if not chat.is_model_named:
        adapter = wishes.adapter or record.adapter
        wishes = replace(wishes, model=record.model, revision=record.revision, adapter=adapter)
    is_as_stored = chat.framing.is_as_stored or any(medium.framing.is_as_stored for medium in record.media)
    framing = replace(chat.framing, fit=record.fit, background=record.background, is_as_stored=is_as_stored)
    return replace(chat, wishes=wishes, framing=framing)


def _session(chat: Chat) -> tuple[Journal | None, SessionRecord | None]:
    """Opens the session to go on with, and locks its file; returns (None, None) for a new chat."""
    if chat.continued is not None:
        return resume(find_session(chat.continued))
    if chat.session and os.path.exists(chat.session) and chat.session.stat().st_size:
        return resume(chat.session)
    return None, None


def _controller(
    chat: Chat, file: Journal | None, record: SessionRecord | None, screen: Screen, ends: ExitStack
) -> ChatController:
    """Makes the controller of the chat, with all that it needs; the weights are loaded last."""
    named = tuple((clip, chat.framing) for clip in chat.clips)
    shown = tuple((medium.path, medium.framing) for medium in record.media) if record else named
    clips = clips_of(record) if record else tuple(dict.fromkeys(named))
    watch = Stopwatch(began_s=BEGAN_S)
    watch.lap("start")
    address = found(chat.server, chat.wishes)
    media, tokens, frames_s = prepare(
        clips,
        chat.wishes,
        limits=chat.limits,
        screen=screen,
        watch=watch,
        modules=LIGHT_MODULES if address else MODEL_MODULES,
    )
    frames = dict(zip(clips, media, strict=True))
    recorder = SessionRecorder(
        header=_header(tokens.checkpoint, chat, record),
        screen=screen,
        path=chat.session.absolute() if chat.session else None,
        file=file,
    )
    ends.callback(recorder.close)
    for clip in clips:
        recorder.cache.add(clip, frames[clip])
    framing = chat.framing
    attached = tuple(frames[clip] for clip in shown)
    conversation = Conversation(attached=attached, fit=framing.fit, background=framing.background)

    def check(tokens: Tokens) -> None:
        tokens.prompt_ids(Conversation(attached=conversation.attached), "?")

    check(tokens)
    kinds = {medium.kind for medium in media} or {"video"}  # the tower for other media is loaded once they come

    load_s = 0.0

    def load() -> AnswerEngine:
        nonlocal load_s
        engine, load_s = start(
            chat.wishes,
            tokens,
            kinds,
            screen.log,
            watch,
            check=check,
            has_clip_cache=chat.has_clip_cache,
            conversation=conversation,
        )
        return engine

    engine = engine_by(chat.server, address, tokens, screen.log, load)
    check(engine.tokens)
    screen.detail(f"ready after {watch.account()}.")
    controller = ChatController(
        engine=engine,
        conversation=conversation,
        sampling=chat.sampling,
        screen=screen,
        recorder=recorder,
        limits=chat.limits,
        is_as_stored=chat.framing.is_as_stored,
        form=chat.output,
        frames_s=frames_s,
        load_s=load_s,
    )
    if record:
        controller.resume(record, frames, is_same_file=True)
    return controller


def _header(checkpoint: Checkpoint, chat: Chat, record: SessionRecord | None) -> SessionRecord:
    """Returns the session without turns; it names model and adapter so that they are found from any folder."""
    adapter = checkpoint.adapter
    is_name = checkpoint.model == DEMO_MODEL or checkpoint.revision is not None
    return SessionRecord(
        model=checkpoint.model if is_name else str(checkpoint.folder.absolute()),
        revision=checkpoint.revision,
        adapter=(adapter.name if adapter.revision else str(adapter.folder.absolute())) if adapter else None,
        fit=chat.framing.fit,
        started_at=record.started_at if record else utc_now(),
    )


def _lines(chat: ChatController) -> Lines:
    lines = lines_for(
        sys.stdin,
        sys.stdout,
        history_path=sessions_folder().parent / "history",
        questions=lambda: chat.questions,
        prompt_to=None if chat.screen.is_quiet else sys.stderr,
    )
    if lines.has_prompt and not chat.conversation.turns:
        chat.screen.notice(f"{chat.about} /help lists the commands, Ctrl-D leaves.")
    if isinstance(lines, TerminalLines):
        chat.has_editor = True
        chat.ending.wake = lines.leave
        if lines.history_fault:
            chat.screen.notice(lines.history_fault)
    return lines


def _loop(chat: ChatController, lines: Lines) -> int:
    """Carries out one entry after the other, and returns the exit code.

    An error ends an entry and not the chat; so does Ctrl-C, unless the entries come from a pipe. When `read` is
    given a question to edit, it returns the new question, or "" if the user gave up.
    """
    failures = 0
    while not (chat.was_interrupted and not lines.is_watched):
        left = f"{chat.left_tokens} tokens left"
        chat.prefill_next()
        edited, chat.edited = chat.edited, 0
        try:
            # The terminal is put back in order before a signal ends the process.
            with chat.ending.held() if chat.has_editor else nullcontext():
                line = lines.read(left=left, default=chat.question_of(edited) if edited else "")
            if line is None:
                chat.is_over = True
            elif not edited:
                perform(chat, line)
            elif line:
                perform(chat, f"/edit {edited} {line}")
        except StdoutError:
            raise
        except VllavaError as exc:
            failures += 1
            chat.screen.error(str(exc))
        except KeyboardInterrupt:
            if not lines.is_watched:
                raise
            chat.screen.notice("Stopped.")
        if chat.is_over:
            chat.prefill.stop()
            keep_clips(chat.engine, chat.screen)
            return 1 if failures and not lines.is_watched else 0
    return INTERRUPTED
