"""`vllava chat`: opens the conversation, then reads an entry and carries it out, until the input ends."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vllava_cli.commands.chat import slash
from vllava_cli.commands.chat.keeping import Keeping
from vllava_cli.commands.chat.lines import Lines, TerminalLines, lines_for
from vllava_cli.commands.chat.perform import perform, resumed, say_changes, say_renewed
from vllava_cli.commands.chat.revive import Clips, clips_of, revived
from vllava_cli.commands.chat.sessions import kept
from vllava_cli.commands.chat.settings import Settings
from vllava_cli.commands.chat.talk import Talk
from vllava_cli.commands.chat.telling import Output
from vllava_cli.commands.start import prepare, start
from vllava_cli.errors import INTERRUPTED, StdoutError, UsageError, VllavaError
from vllava_cli.interrupt import GracefulExit
from vllava_cli.nouns import DEMO_MODEL, Conversation, DecodeLimits, Frames, Framing, Sampling, Wishes
from vllava_cli.screen import Screen
from vllava_cli.session.session_file import SessionFile, SessionRecord, sessions_folder
from vllava_cli.times import BEGAN_S, Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class Chat:
    """What one `vllava chat` was told."""

    clips: tuple[Path, ...]
    wishes: Wishes
    is_model_named: bool
    """On the command line: a session's own model doesn't count then."""
    framing: Framing
    sampling: Sampling
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    output: Output = "stream"
    is_continued: bool = False
    continued: str | None = None
    """Which session is gone on with; None is the last one."""
    session: Path | None = None


def run(chat: Chat, screen: Screen) -> int:
    """Talks until the input ends; returns 0, or 1 where a line of a pipe failed. Errors: any VllavaError."""
    with ExitStack() as ends:
        file, record = _session(chat)
        if file:
            ends.callback(file.close)
        if record and chat.clips:
            _check_same(chat.clips, record)
        talk = _talk(of_session(chat, record), file, record, screen, ends)
        lines = _lines(talk, screen)
        talk.ending = ends.enter_context(GracefulExit.watched())
        ends.callback(talk.close)
        return _loop(talk, lines)


def _session(chat: Chat) -> tuple[SessionFile | None, SessionRecord | None]:
    """The session to go on with, locked; none where the chat is a new one."""
    if chat.is_continued:
        return SessionFile.resume(kept(chat.continued))
    if chat.session and os.path.exists(chat.session) and chat.session.stat().st_size:
        return SessionFile.resume(chat.session)
    return None, None


def _check_same(clips: tuple[Path, ...], record: SessionRecord) -> None:
    """Raises a UsageError for clips that aren't the session's: so that one command line can begin and go on with it."""
    known = {path for path, _ in clips_of(record)}
    other = next((clip for clip in clips if clip.absolute() not in known), None)
    if other:
        raise UsageError(f"The session isn't about '{other}'. Leave it out, and /open or /add it in the chat.")


def of_session(chat: Chat, record: SessionRecord | None) -> Chat:
    """The chat with the session's model and fit."""
    if record is None:
        return chat
    wishes = chat.wishes
    if not chat.is_model_named:
        adapter = wishes.adapter or record.adapter
        wishes = replace(wishes, model=record.model, revision=record.revision, adapter=adapter)
    return replace(chat, wishes=wishes, framing=replace(chat.framing, fit=record.fit))


def _talk(chat: Chat, file: SessionFile | None, record: SessionRecord | None, screen: Screen, ends: ExitStack) -> Talk:
    """The conversation with everything that it needs, the weights last."""
    clips: Clips = clips_of(record) if record else tuple(dict.fromkeys((clip, chat.framing) for clip in chat.clips))
    watch = Stopwatch(began_s=BEGAN_S)
    watch.lap("start")
    media, tokens, frames_s = prepare(clips, chat.wishes, limits=chat.limits, screen=screen, watch=watch)
    keeping = Keeping(
        model=_model(tokens),
        revision=tokens.checkpoint.revision,
        adapter=_adapter(tokens),
        screen=screen,
        path=chat.session.absolute() if chat.session else None,
        file=file,
        started_at=record.started_at if record else "",
    )
    ends.callback(keeping.close)
    keeping.know(media, clips)
    frames = dict(zip(clips, media, strict=True))
    conversation, renewed = _conversation(chat, record, frames, tokens, keeping.model)
    keeping.turns = list(conversation.turns)

    def check(tokens: Tokens) -> None:
        tokens.prompt_ids(Conversation(attached=conversation.media), "?")

    check(tokens)
    kinds = {medium.kind for medium in media} or {"video"}  # what comes later brings its tower with it
    engine, load_s = start(chat.wishes, tokens, kinds, screen.log, watch, check=check)
    screen.detail(f"ready after {watch.account()}.")
    talk = Talk(
        engine=engine,
        conversation=conversation,
        settings=Settings(sampling=chat.sampling, is_verbose=screen.is_verbose),
        screen=screen,
        keeping=keeping,
        ending=GracefulExit(),
        limits=chat.limits,
        output=chat.output,
        frames_s=frames_s,
        load_s=load_s,
    )
    talk.gallery.frames(clips, lambda _: media)
    if record:
        say_changes(talk, record)
        say_renewed(talk, renewed)
        screen.notice(resumed(talk))
    return talk


def _conversation(
    chat: Chat,
    record: SessionRecord | None,
    frames: dict[tuple[Path, Framing], Frames],
    tokens: Tokens,
    model: str,
) -> tuple[Conversation, int]:
    if record:
        return revived(record, frames, tokens, model=model)
    return Conversation(attached=tuple(frames[clip, chat.framing] for clip in chat.clips), fit=chat.framing.fit), 0


def _model(tokens: Tokens) -> str:
    """What a session calls the model, such that it is found again from any folder."""
    checkpoint = tokens.checkpoint
    is_name = checkpoint.model == DEMO_MODEL or checkpoint.revision is not None
    return checkpoint.model if is_name else str(checkpoint.folder.absolute())


def _adapter(tokens: Tokens) -> str | None:
    """The same of the model's adapter."""
    adapter = tokens.checkpoint.adapter
    if adapter is None:
        return None
    return adapter.name if adapter.revision else str(adapter.folder.absolute())


def _lines(talk: Talk, screen: Screen) -> Lines:
    lines = lines_for(
        sys.stdin,
        sys.stdout,
        history_path=sessions_folder().parent / "history",
        questions=lambda: talk.questions,
        prompt_to=None if screen.is_quiet else sys.stderr,
    )
    if lines.has_prompt and not talk.conversation.turns:
        screen.notice(f"{talk.about()} /help lists the commands, Ctrl-D leaves.")
    if isinstance(lines, TerminalLines):
        talk.is_ahead = True
        if lines.history_fault:
            screen.notice(lines.history_fault)
    return lines


def _loop(talk: Talk, lines: Lines) -> int:
    """One entry after the other. A fault, or Ctrl-C, ends an entry and not the chat, but for a script's."""
    is_watched = isinstance(lines, TerminalLines) or bool(sys.stdin and sys.stdin.isatty())
    failures, edited = 0, 0
    while not (talk.was_interrupted and not is_watched):
        left = f"{talk.left_tokens} tokens left"
        talk.look_ahead()
        try:
            line = _line(talk, lines, left, default=talk.question_of(edited) if edited else "")
            entry = _entry(line, edited)
            edited = _wanted(talk, entry, is_terminal=isinstance(lines, TerminalLines))
            if isinstance(entry, slash.Bye):
                return 1 if failures and not is_watched else 0
            if entry and not edited:
                perform(talk, entry)
        except StdoutError:
            raise
        except VllavaError as exc:
            failures += 1
            edited = 0
            talk.screen.error(str(exc))
        except KeyboardInterrupt:
            if not is_watched:
                raise
            talk.screen.notice("Stopped.")
    return INTERRUPTED


def _line(talk: Talk, lines: Lines, left: str, *, default: str) -> str | None:
    """The next line. A terminal is put back in order before a request to end is followed; a read of a pipe isn't."""
    if not isinstance(lines, TerminalLines):
        return lines.read(left=left, default=default)
    talk.ending.wake = lines.leave
    with talk.ending.held():
        return lines.read(left=left, default=default)


def _entry(line: str | None, edited: int) -> slash.Entry | None:
    """What a line means; None where an edit was given up. The end of the input is a farewell. Errors: UsageError."""
    if line is None:
        return slash.Bye()
    if not edited:
        return slash.parse(line)
    return slash.Edit(number=edited, question=line) if line else None


def _wanted(talk: Talk, entry: slash.Entry | None, *, is_terminal: bool) -> int:
    """The number of the question that is to be put up for editing, 0 for none. Errors: UsageError."""
    if not isinstance(entry, slash.Edit) or entry.question is not None:
        return 0
    talk.question_of(entry.number)
    if not is_terminal:
        raise UsageError("/edit N QUESTION: the new words are missing.")
    return entry.number
