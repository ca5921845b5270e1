"""A chat with the demo model that needs no process: a screen of strings, a session file in a folder of its own."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.engines import engine_of
from vllava_cli import demo
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.commands.chat.commands import perform
from vllava_cli.commands.chat.controller import ChatController
from vllava_cli.commands.chat.recorder import FramedClip, SessionRecorder, clips_of
from vllava_cli.commands.start import AnswerForm
from vllava_cli.engine.generate import Engine
from vllava_cli.interrupt import GracefulExit
from vllava_cli.media.sample import sample
from vllava_cli.media.select import spread
from vllava_cli.nouns import DecodeLimits, Frames, Framing
from vllava_cli.screen import Screen
from vllava_cli.storage.session_file import SessionRecord, read

CLIP = "red-circle-moves-left.mp4"
MOVES = "A red circle moves left.\n"
HAPPENS = "What happens in this video?"


@dataclass(kw_only=True)
class Stage:
    """A chat and where everything of it goes."""

    chat: ChatController
    out: io.StringIO
    err: io.StringIO
    path: Path

    def enter(self, *lines: str) -> str:
        """Carries lines out; returns what the last one printed, answers first, notices behind them."""
        for line in lines:
            places = self.out.tell(), self.err.tell()
            perform(self.chat, line)
        return self.out.getvalue()[places[0] :] + self.err.getvalue()[places[1] :]

    def resume(self, record: SessionRecord) -> None:
        clips = clips_of(record)
        self.chat.resume(record, dict(zip(clips, self.chat.read(clips), strict=True)))

    @property
    def record(self) -> SessionRecord:
        """The session file's."""
        return read(self.path)

    @property
    def calls(self) -> int:
        """How many clips were encoded."""
        return self.chat.engine.vision.calls

    def rows(self, path: Path | None = None) -> list[dict[str, Any]]:
        """The rows behind the header of the session file."""
        return [json.loads(line) for line in (path or self.path).read_text().splitlines()][1:]

    def saved(self) -> list[tuple[int, str]]:
        return [(row["number"], row.get("question", row["type"])) for row in self.rows()]

    def others(self) -> list[Path]:
        """The session files in the state folder, the oldest first."""
        files = self.path.parent.glob("state/vllava/sessions/*.jsonl")
        return sorted(files, key=lambda path: path.stat().st_mtime_ns)


@pytest.fixture(scope="session")
def engine() -> Engine:
    return engine_of(demo.CHECKPOINT)


@pytest.fixture(scope="session")
def shipped() -> dict[FramedClip, Frames]:
    """The shipped clips, decoded here and once: a decoding process for each chat takes half a second."""
    return {(path, Framing()): spread(sample(path, Framing()), "crop") for path in demo.clips()}


@pytest.fixture
def stage(
    engine: Engine, shipped: dict[FramedClip, Frames], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Stage]]:
    """Makes chats about shipped clips, in an empty folder and with a state folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    engine.prompt_cache = None
    engine.vision.forget()
    engine.vision.calls = 0
    stages: list[Stage] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is tiny: on a busy machine threads wait for each other

    def make(*names: str, engine: Engine = engine, form: AnswerForm = "stream", is_verbose: bool = False) -> Stage:
        out, err = io.StringIO(), io.StringIO()
        screen = Screen(out=out, err=err, is_verbose=is_verbose)
        path = tmp_path / f"session-{len(stages)}.jsonl"
        header = SessionRecord(model="demo", revision=None, fit="crop", started_at="2026-11-22T19:40:05Z")
        chat = ChatController(
            engine=engine,
            conversation=Conversation(),
            sampling=Sampling(),
            screen=screen,
            recorder=SessionRecorder(header=header, screen=screen, path=path),
            limits=DecodeLimits(),
            form=form,
        )
        for clip, frames in shipped.items():
            chat.recorder.cache.add(clip, frames)
        chat.conversation.attached = chat.read([(demo.CLIPS / name, Framing()) for name in names])
        stages.append(Stage(chat=chat, out=out, err=err, path=path))
        return stages[-1]

    yield make
    torch.set_num_threads(threads)
    for each in stages:
        each.chat.ending = GracefulExit()  # one that was asked for would end pytest
        each.chat.close()


@pytest.fixture
def here(stage: Callable[..., Stage]) -> Stage:
    """A chat with one answer."""
    made = stage(CLIP)
    made.enter(HAPPENS)
    return made
