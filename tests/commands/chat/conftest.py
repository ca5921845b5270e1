"""A talk with the demo model that needs no process: a screen of strings, a session file in a folder of its own."""

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
from vllava_cli.commands.chat.gallery import Gallery
from vllava_cli.commands.chat.keeping import Keeping
from vllava_cli.commands.chat.perform import perform
from vllava_cli.commands.chat.settings import Settings
from vllava_cli.commands.chat.slash import parse
from vllava_cli.commands.chat.talk import Talk
from vllava_cli.commands.chat.telling import Output
from vllava_cli.engine.stream import Engine
from vllava_cli.interrupt import Ending
from vllava_cli.media.pick import spread
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Conversation, DecodeLimits, Framing
from vllava_cli.screen import Screen

CLIP = "red-circle-moves-left.mp4"
MOVES = "A red circle moves left.\n"


@dataclass(kw_only=True)
class Stage:
    """A talk and where everything of it goes."""

    talk: Talk
    out: io.StringIO
    err: io.StringIO
    path: Path

    def enter(self, line: str) -> str:
        """Carries a line out; returns what it printed, answers first, notices behind them."""
        places = self.out.tell(), self.err.tell()
        perform(self.talk, parse(line))
        return self.out.getvalue()[places[0] :] + self.err.getvalue()[places[1] :]

    def rows(self, path: Path | None = None) -> list[dict[str, Any]]:
        """The rows behind the header of the session file."""
        return [json.loads(line) for line in (path or self.path).read_text().splitlines()][1:]

    def kept(self) -> list[tuple[int, str]]:
        return [(row["number"], row.get("question", row["type"])) for row in self.rows()]


@pytest.fixture(scope="session")
def engine() -> Engine:
    return engine_of(demo.CHECKPOINT)


@pytest.fixture(scope="session")
def shipped() -> Iterator[Gallery]:
    """The shipped clips, decoded here and once: a decoding process for each talk takes half a second."""
    gallery = Gallery()
    clips = [(path, Framing()) for path in demo.clips()]
    held = gallery.frames(clips, lambda missing: [spread(sample(*clip), "crop") for clip in missing])
    yield gallery
    del held


@pytest.fixture
def stage(
    engine: Engine, shipped: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Stage]]:
    """Makes talks about shipped clips, in an empty folder and with a state folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    engine.memory = None
    engine.sight.forget()
    engine.sight.calls = 0
    stages: list[Stage] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the model is tiny: on a busy machine threads wait for each other

    def make(*names: str, engine: Engine = engine, output: Output = "stream", is_verbose: bool = False) -> Stage:
        out, err = io.StringIO(), io.StringIO()
        screen = Screen(out=out, err=err, is_verbose=is_verbose)
        path = tmp_path / f"session-{len(stages)}.jsonl"
        talk = Talk(
            engine=engine,
            conversation=Conversation(),
            settings=Settings(is_verbose=is_verbose),
            screen=screen,
            keeping=Keeping(model="demo", revision=None, screen=screen, path=path),
            ending=Ending(),
            limits=DecodeLimits(),
            gallery=shipped,
            output=output,
        )
        talk.conversation.attached = talk.read([(demo.CLIPS / name, Framing()) for name in names])
        stages.append(Stage(talk=talk, out=out, err=err, path=path))
        return stages[-1]

    yield make
    torch.set_num_threads(threads)
    for each in stages:
        each.talk.ending = Ending()  # one that was asked for would end pytest
        each.talk.close()
