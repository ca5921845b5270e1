"""What ask, chat and batch read of a clip serves each of them later, unless --no-clip-cache is given."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path

import pytest

from tests.commands.chat.conftest import CLIP, HAPPENS, MOVES
from tests.commands.shell import Shell, chapters
from tests.commands.turns import Piped
from tests.engine.engines import tokens_of
from vllava_cli import cli, demo
from vllava_cli.answers import Conversation
from vllava_cli.commands.start import start
from vllava_cli.engine import clip_cache
from vllava_cli.media.sample import sample
from vllava_cli.nouns import SILENT, Framing, Wishes
from vllava_cli.times import Stopwatch

pytestmark = pytest.mark.usefixtures("one_thread")
Run = Callable[..., Shell]
WORDS: dict[str, tuple[str, ...]] = {
    "ask": ("ask", str(demo.CLIPS / CLIP), HAPPENS, "--json"),
    "chat": ("chat", str(demo.CLIPS / CLIP), "--json"),
    "batch": ("batch", HAPPENS, str(demo.CLIPS / CLIP), "--stats"),
}


@dataclass(kw_only=True)
class Eager(clip_cache.ClipCache):
    """Keeps what the small model read in an instant, too."""

    least_bytes: int = 0
    least_gain_s: float = -inf


@pytest.fixture
def vllava(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, with folders of its own."""
    monkeypatch.setattr(clip_cache, "ClipCache", Eager)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("VLLAVA_CACHE", str(tmp_path))

    def run(command: str, *words: str) -> Shell:
        monkeypatch.setattr(sys, "argv", ["vllava", *WORDS[command], "--model", "demo", "--device", "cpu", *words])
        monkeypatch.setattr(sys, "stdin", Piped(f"{HAPPENS}\n".encode()))
        code = cli.main()
        out, err = capsys.readouterr()
        return Shell(code=code, out=out, err=err)

    return run


def was_looked_at(command: str, done: Shell) -> bool:
    assert done.code == 0
    row = json.loads(done.out)
    assert row["answer"] + "\n" == MOVES
    if command == "batch":
        (stats,) = [line.partition("stats: ")[2] for line in done.err.splitlines() if "stats: " in line]
        return bool(json.loads(stats)["tower_calls"])
    return bool(row["tokens"]["reused"] == 0)


@pytest.mark.parametrize("first", WORDS)
def test_what_one_command_read_the_others_go_on_from(first: str, vllava: Run, tmp_path: Path) -> None:
    assert was_looked_at(first, vllava(first, "--no-clip-cache"))
    assert not (tmp_path / "clips").exists()
    done = vllava(first)
    assert was_looked_at(first, done)
    assert f" in {tmp_path / 'clips'}, for later questions about it. " in done.err
    for command in WORDS:
        assert not was_looked_at(command, vllava(command))
        assert was_looked_at(command, vllava(command, "--no-clip-cache"))


def test_no_tower_is_loaded_for_clips_that_are_kept(vllava: Run) -> None:
    vllava("ask")
    for clip, is_loaded in ((CLIP, False), ("blue-star-grows.mp4", True)):
        shown = Conversation(attached=(sample(demo.CLIPS / clip, Framing()),))
        wishes = Wishes(model="demo", device="cpu")
        tokens = tokens_of(demo.CHECKPOINT)
        engine, _ = start(
            wishes, tokens, ["video"], SILENT, Stopwatch(), check=str, has_clip_cache=True, conversation=shown
        )
        assert (engine.model.model.video_tower is not None) == is_loaded


def test_the_doctor_counts_what_is_kept(vllava: Run, shell: Run, tmp_path: Path) -> None:
    vllava("ask")
    (file,) = (tmp_path / "clips").glob("*.safetensors")
    size, words = file.stat().st_size, ["doctor", "--model", "demo", "--device", "cpu"]
    environment = {"VLLAVA_CACHE": str(tmp_path), "VLLAVA_CLIP_CACHE": "2G"}
    assert chapters(shell(*words, environment=environment).out)["kept"] == [
        f"clips  1 clip as read, {size / 1e6:.1f} MB of at most 2.0 GiB; rm -r {file.parent} removes them."
    ]
    found = json.loads(shell(*words, "--json", environment=environment).out)["clips"]
    assert found == {"folder": str(file.parent), "count": 1, "bytes": size, "most_bytes": 2 << 30}


def test_a_setting_that_is_no_size_is_refused(shell: Run) -> None:
    done = shell(*WORDS["ask"], "--model", "demo", "-q", environment={"VLLAVA_CLIP_CACHE": "much"})
    assert done == Shell.failed(
        "VLLAVA_CLIP_CACHE: 'much' is not a size: give bytes with K, M or G (512M, 4G).", code=2
    )
