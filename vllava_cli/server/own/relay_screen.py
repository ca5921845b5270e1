"""A screen whose output is told as events, which the screen of another process shows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from vllava_cli.screen import Screen

_EVERY_S = 0.25

Tell = Callable[..., object]
"""Tells an event: its name, and its values."""


@dataclass(frozen=True, kw_only=True)
class ScreenFacts:
    """The settings of a command's own screen."""

    is_quiet: bool
    is_verbose: bool
    is_moving: bool
    """True if it may draw progress."""


class Relay(Screen):
    """Tells all that a command shows; the events have the names of the methods that they call on the other side.

    Progress is told by three: "begin" with the first texts, "parts" with later ones, "rest" at its end.
    """

    def __init__(self, facts: ScreenFacts, tell: Tell) -> None:
        super().__init__(is_quiet=facts.is_quiet, is_verbose=facts.is_verbose)
        self._facts, self.tell = facts, tell

    @property
    def is_moving(self) -> bool:
        return self._facts.is_moving

    def answer(self, content: str | bytes) -> None:
        if isinstance(content, bytes):
            raise TypeError("only texts are told")
        if content:
            self.tell("answer", content)

    def end_answer(self) -> None:
        self.tell("end_answer")

    def notice(self, text: str, *, is_asked: bool = False) -> None:
        if is_asked or not self.is_quiet:
            self.tell("notice", text, is_asked)

    def detail(self, text: str) -> None:
        if self.is_verbose:
            self.tell("detail", text)

    def error(self, text: str) -> None:
        self.tell("error", text)

    def waiting(self, what: str) -> AbstractContextManager[None]:
        return self._shown([what]) if self.is_moving else nullcontext()

    def progress(self, parts: Callable[[], Sequence[str]], *, is_shared: bool) -> AbstractContextManager[None]:
        return nullcontext() if self.is_quiet or is_shared else self._followed(parts)

    @contextmanager
    def _shown(self, parts: Sequence[str]) -> Iterator[None]:
        self.tell("begin", list(parts))
        try:
            yield
        finally:
            self.tell("rest")

    @contextmanager
    def _followed(self, parts: Callable[[], Sequence[str]]) -> Iterator[None]:
        is_over = threading.Event()

        def follow(told: list[str]) -> None:
            while not is_over.wait(_EVERY_S):
                if (now := list(parts())) != told:
                    told = now
                    self.tell("parts", told)

        first = list(parts())
        with self._shown(first):
            thread = threading.Thread(target=follow, args=(first,), name="progress", daemon=True)
            thread.start()
            try:
                yield
            finally:
                is_over.set()
                thread.join()
