"""`vllava chat` as a person at a terminal has it, and as a script has it: few and long stories, as starts are slow."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pexpect
import pytest

from tests.commands.chat.terminal import PASTE, PROMPT, Terminal, environment
from tests.commands.shell import Shell
from vllava_cli import demo
from vllava_cli.session import SessionRecord, write_copy

CLIP = demo.CLIPS / "red-circle-moves-left.mp4"
MOVES = "A red circle moves left."
LONG = ("--no-guard", "--max-new-tokens", "900")

Run = Callable[..., Shell]


def sessions(home: Path) -> list[Path]:
    return sorted((home / ".local/state/vllava/sessions").glob("*.jsonl"))


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_person_types_completes_pastes_edits_and_leaves(tmp_path: Path) -> None:
    shutil.copy(demo.CLIPS / "blue-star-grows.mp4", tmp_path / "my star.mp4")
    terminal = Terminal("--model", "demo", CLIP, home=tmp_path)
    terminal.enter("What happens in this video?", MOVES)

    terminal.type("/fra\t")
    terminal.enter("", "red-circle-moves-left-frames.png")
    assert (tmp_path / "red-circle-moves-left-frames.png").stat().st_size > 1000

    terminal.type("/set temp\t")
    terminal.enter("0.5", "temperature")
    terminal.enter("/undoo", "Did you mean /undo?")

    terminal.type("not asked\x03")
    terminal.see(PROMPT)
    terminal.type("What shape")
    terminal.resize(45)
    terminal.type(" is it?")
    terminal.enter("", "Circle.")
    terminal.resize(60)

    terminal.type(PASTE.format("What colour\nis it?"))
    terminal.enter("", "Red.")
    terminal.type('"""And the\r')
    terminal.enter('background?"""', "I only know moving shapes.")

    terminal.type("/open my\t")
    terminal.enter("", "About my star.mp4.")
    terminal.enter("What does the star do?", "It grows.")
    terminal.type("/edit 1\r")
    terminal.see("What does the star do?")
    terminal.see(PROMPT)
    terminal.type("\x15")
    terminal.enter("What shape is it?", "Star.")
    terminal.type("\x04")
    assert terminal.end() == 0

    first, second = sessions(tmp_path)
    assert [row["question"] for row in rows(first)[1:]] == [
        "What happens in this video?",
        "What shape is it?",
        "What colour\nis it?",
        "And the\nbackground?",
    ]
    assert [(row["number"], row["question"]) for row in rows(second)[1:]] == [
        (1, "What does the star do?"),
        (1, "What shape is it?"),
    ]
    assert rows(second)[1]["media"][0]["path"] == str(tmp_path / "my star.mp4")
    history = tmp_path / ".local/state/vllava/history"
    assert "+/set temperature 0.5\n" in history.read_text()
    assert (mode(history), mode(first), mode(first.parent)) == (0o600, 0o600, 0o700)


def test_ctrl_c_keeps_what_was_said_and_a_killed_chat_goes_on(
    small_checkpoint: Path, clip: Path, tmp_path: Path
) -> None:
    terminal = Terminal("--model", small_checkpoint, *LONG, clip, home=tmp_path)
    terminal.ask_at_length("what is this")
    terminal.type("\x03")
    assert "Stopped." in terminal.see(PROMPT)
    terminal.ask_at_length("and then")
    terminal.type("\x03\x03\x03")
    assert "Stopped." in terminal.see(PROMPT)
    (session,) = sessions(tmp_path)
    kept = session.read_bytes()
    assert [row["stop_reason"] for row in rows(session)[1:]] == ["interrupted", "interrupted"]

    terminal.ask_at_length("what is in this clip")
    assert terminal.kill(signal.SIGKILL) == 128 + signal.SIGKILL
    assert session.read_bytes() == kept

    resumed = Terminal("--continue", *LONG, home=tmp_path)
    shown = resumed.enter("/show", "turn 2")
    assert "turn 3" not in shown
    resumed.ask_at_length("what is in this clip")
    assert resumed.kill(signal.SIGHUP) == 129  # the terminal is closed in mid-answer
    assert session.read_bytes().startswith(kept)
    *_, before, last = rows(session)
    assert [(row["number"], row["stop_reason"]) for row in (before, last)] == [(2, "interrupted"), (3, "interrupted")]
    assert last["answer"]
    assert last["stats"]["reused_tokens"] > 40, "the clip and both turns were read while the question was typed"


def test_a_request_to_end_at_the_prompt_leaves_the_terminal_as_it_was(tmp_path: Path) -> None:
    terminal = Terminal("--model", "demo", "--session", "talk.jsonl", CLIP, home=tmp_path)
    assert not terminal.is_echoing
    terminal.type("half a line")
    terminal.see("line")
    terminal.child.kill(signal.SIGTERM)
    terminal.child.expect(pexpect.EOF)
    assert terminal.is_echoing
    assert terminal.end() == 143
    assert not (tmp_path / "talk.jsonl").exists()


def test_lines_of_a_pipe_are_answered_plainly(shell: Run, tmp_path: Path) -> None:
    done = shell(
        *("chat", "--model", "demo", "--session", "talk.jsonl", CLIP),
        stdin=b'What happens in this video?\n\n/nonsense\n"""What shape\nis it?"""\n/undo\nAnd its colour?',
    )
    first, _, last = done.out.splitlines(keepends=True)
    assert (done.code, first, last) == (1, f"{MOVES}\n", "Red.\n")
    assert done.err.splitlines() == [
        "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality.",
        "vllava: There is no /nonsense. /help lists the commands.",
        "Took back: What shape is it?",
    ]
    kept = rows(tmp_path / "talk.jsonl")[1:]
    assert [(row["type"], row["number"]) for row in kept] == [("turn", 1), ("turn", 2), ("undo", 2), ("turn", 2)]
    assert kept[1]["question"] == "What shape\nis it?"


def test_a_session_goes_on_and_a_changed_or_missing_clip_is_said(shell: Run, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    shutil.copy(CLIP, clip)
    first = shell("chat", "-q", "--model", "demo", "--session", "s.jsonl", "--json", clip, stdin=b"What happens?\n")
    assert json.loads(first.out)["turn"] == 1
    shutil.copy(demo.CLIPS / "three-shapes.mp4", clip)
    other = shell("chat", "--session", "s.jsonl", CLIP)
    assert (other.code, other.out, other.err) == (
        2,
        "",
        f"vllava: The session isn't about '{CLIP}'. Leave it out, and /open or /add it in the chat.\n",
    )
    again = shell("chat", "--session", "s.jsonl", "--json", "clip.mp4", stdin=b"How many shapes are there?\n")
    (row,) = map(json.loads, again.out.splitlines())
    assert (again.code, row["turn"], row["model"], row["answer"]) == (0, 2, "demo", "Three.")
    assert f"vllava: warning: '{clip}' has changed since: 8,496 bytes then, 5,871 now. " in again.err
    clip.unlink()
    gone = shell("chat", "--continue")
    assert (gone.code, gone.out) == (1, "")
    assert gone.err == "vllava: There is no session to continue in {}: vllava chat CLIP begins one.\n".format(
        tmp_path / ".local/state/vllava/sessions"
    )
    missing = shell("chat", "--session", "s.jsonl")
    assert (missing.code, missing.out) == (1, "")
    assert missing.err == (
        f"vllava: There is no file '{clip}' any more. The session is about it: put it back, or begin anew.\n"
    )


def test_a_session_has_one_writer(tmp_path: Path, shell: Run) -> None:
    header = SessionRecord(model="demo", revision=None, fit="crop", started_at="2026-11-22T10:00:00Z")
    write_copy(tmp_path / "s.jsonl", header, is_forced=False)
    with (tmp_path / "s.jsonl").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        second = shell("chat", "--session", "s.jsonl")
    assert (second.code, second.out) == (75, "")
    assert second.err == (
        "vllava: 's.jsonl' is being written by another vllava. Wait for its end, or name another file.\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-"], "stdin, -, is where a chat's questions come from: save the clip to a file and name that."),
        (["-c", "--session", "x"], "--session names a session, --continue takes the last one. Give one of them."),
    ],
)
def test_what_does_not_go_together_is_a_usage_error(words: list[str], message: str, shell: Run) -> None:
    assert shell("chat", *words) == Shell(code=2, out="", err=f"vllava: {message}\n")


def test_a_closed_stdin_is_an_end(tmp_path: Path) -> None:
    done = subprocess.run(
        f"exec {sys.executable} -m vllava_cli chat -q nothere.mp4 <&-",
        shell=True,
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (
        1,
        "",
        "vllava: There is no file 'nothere.mp4'. Check the path.\n",
    )
