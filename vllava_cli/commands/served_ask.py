"""`vllava ask` by a server of this user: the server works, this process shows. Nothing heavy is imported."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllava_cli.client import place
from vllava_cli.client.connection import Address, send
from vllava_cli.client.events import events
from vllava_cli.client.place import ServerState
from vllava_cli.commands.asked import Ask
from vllava_cli.commands.start import warn_of_demo, warn_of_many
from vllava_cli.errors import MediaError, ServerError, ServerGoneError
from vllava_cli.interrupt import GracefulExit, sigint_flag
from vllava_cli.media.stdin_copy import spooled
from vllava_cli.nouns import AUTO, STDIN
from vllava_cli.screen import Screen

Here = Callable[[Ask, Path | None], int]
"""Answers in this process; the path is that of a file with the content of stdin, where that has been read."""
GONE = "vllava: the server ended; loading the model here."
_OWN_PLACES = ("/proc/", "/dev/")
"""Folders in which a process finds files of its own, which another process doesn't see under the same names."""
_INTERRUPT_S = 2.0
_SHOWN_AFTER_S = 0.4


def run(ask: Ask, screen: Screen, here: Here) -> int:
    """Answers by a server that runs, else `here`; returns the exit code. Errors: any VllavaError."""
    state = _server(ask, screen)
    if state is None:
        return here(ask, None)
    address = Address.of(state)
    screen.detail(f"server: {address.name}, process {state.pid}.")
    with _stdin_copied(ask, screen) as copy:
        play = _Play(screen)
        try:
            return _ask(ask, address, copy, play)
        except ServerError as exc:
            play.rest()
            screen.notice(GONE if isinstance(exc, ServerGoneError) else f"vllava: {exc} Loading the model here.")
            screen.go_on_after(play.answer, play.notices)
            return here(ask, copy)


def _server(ask: Ask, screen: Screen) -> ServerState | None:
    """Finds a server that can answer; one in another process sees neither this one's own files nor a removed folder.

    With `keep_s` a server is started where none runs. Errors: UsageError, ServerError.
    """
    if ask.keep_s is not None:
        from vllava_cli.commands.keeping import keep

        keep(ask, screen)
    if ask.server != AUTO or any(str(clip).startswith(_OWN_PLACES) for clip in ask.clips):
        return None
    try:
        Path.cwd()
    except OSError:
        return None
    return place.matching(ask.wishes)


@contextmanager
def _stdin_copied(ask: Ask, screen: Screen) -> Iterator[Path | None]:
    """Copies a clip on stdin to a file, for which the server can look; yields None if no clip comes from there."""
    if Path(STDIN) not in ask.clips:
        yield None
        return
    with ExitStack() as ends:
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # SIGTERM would leave the file behind
            ends.enter_context(GracefulExit.watched())
        try:
            copy = ends.enter_context(spooled(sys.stdin.buffer))
        except MediaError:
            warn_of_demo(ask.wishes.model, screen)
            warn_of_many(len(ask.clips), screen)
            raise
        yield copy


def _ask(ask: Ask, address: Address, copy: Path | None, play: _Play) -> int:
    """Sends the request and shows what comes; the first Ctrl-C ends the answer, with what there is of it."""
    id, is_sent = os.urandom(16).hex(), False
    with sigint_flag(is_early=lambda: not play.is_answering) as is_interrupted:

        def wake() -> None:
            nonlocal is_sent
            play.wake()
            if is_interrupted() and not is_sent:
                is_sent = True
                with suppress(ServerError):
                    send(address, "POST", f"/vllava/interrupt/{id}", patience_s=_INTERRUPT_S).close()

        with send(address, "POST", "/vllava/ask", _body(ask, id, copy, play.screen), wake=wake) as reply:
            return play.all(events(reply.checked().lines()))


def _body(ask: Ask, id: str, copy: Path | None, screen: Screen) -> bytes:
    subs = f"file:{ask.subs}" if isinstance(ask.subs, Path) else ask.subs
    request = {
        "id": id,
        "ask": asdict(ask) | {"subs": subs},
        "folder": Path.cwd(),
        "copy": copy,
        "screen": {"is_quiet": screen.is_quiet, "is_verbose": screen.is_verbose, "is_moving": screen.is_moving},
    }
    return json.dumps(request, default=str).encode()


class _Play:
    """Shows events on a screen, and remembers what can't be shown twice."""

    def __init__(self, screen: Screen) -> None:
        self.screen = screen
        self.answer = ""
        self.notices: list[str] = []
        self.is_answering = False
        """True while Ctrl-C ends the answer instead of the command."""
        self._parts: Sequence[str] = ()
        self._shown = ExitStack()
        self._shows_at_s: float | None = None

    def all(self, told: Iterable[tuple[str, tuple[Any, ...]]]) -> int:
        """Shows the events until the last, which has the exit code. Errors: ServerGoneError without one."""
        with self._shown:
            for name, values in told:
                if name == "ended":
                    return int(values[0])
                show = _SHOWS.get(name)
                if show is None:
                    raise ServerError(f"The server told something unknown, {name!r}. Restart it.")
                show(self, *values)
        raise ServerGoneError("The server ended before its answer did. Ask again.")

    def wake(self) -> None:
        """Shows progress once it has lasted: drawing it needs a library whose import takes longer than most answers."""
        if self._shows_at_s is not None and time.monotonic() >= self._shows_at_s:
            self._shows_at_s = None
            self._shown.enter_context(self.screen.progress(lambda: self._parts, is_shared=False))

    def rest(self) -> None:
        self._shows_at_s = None
        self._shown.close()

    def _begin(self, parts: list[str]) -> None:
        self._parts, self._shows_at_s = parts, time.monotonic() + _SHOWN_AFTER_S

    def _follow(self, parts: list[str]) -> None:
        self._parts = parts

    def _answer(self, text: str) -> None:
        self.answer += text
        self.screen.answer(text)

    def _notice(self, text: str, is_asked: bool) -> None:
        self.notices.append(text)
        self.screen.notice(text, is_asked=is_asked)

    def _answering(self, is_answering: bool) -> None:
        self.is_answering = is_answering


_SHOWS: dict[str, Callable[..., None]] = {
    "answer": _Play._answer,
    "end_answer": lambda play: play.screen.end_answer(),
    "notice": _Play._notice,
    "detail": lambda play, text: play.screen.detail(text),
    "error": lambda play, text: play.screen.error(text),
    "begin": _Play._begin,
    "parts": _Play._follow,
    "rest": _Play.rest,
    "answering": _Play._answering,
}
