"""`vllava chat` as a person at a terminal has it, and as a script has it: few and long stories, as starts are slow."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyte.modes import DECAWM, DECTCEM
from safetensors.torch import load_file, save_file

from tests.checkpoints import SPECIAL, write_checkpoint
from tests.commands.chat.terminal import CTRL_C, CTRL_D, CTRL_U, ENTER, LEFT, PASTE, TAB, UP, Terminal
from tests.commands.shell import Shell, environment_of
from vllava_cli import demo
from vllava_cli.screen import clean

CLIP = demo.CLIPS / "red-circle-moves-left.mp4"
MOVES = "A red circle moves left."
DEMO_NOTICE = "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality."
LONG = ("--no-guard", "--max-new-tokens", "3500")

Run = Callable[..., Shell]
Row = dict[str, Any]


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that says words until its longest answer is full, slowly enough to be stopped in the middle."""
    folder = write_checkpoint(tmp_path_factory.mktemp("checkpoints") / "talkative", layers=12, context=4096)
    weights = load_file(folder / "model.safetensors")
    (head,) = (name for name in weights if name.endswith("lm_head.weight"))
    weights[head][: len(SPECIAL) + 256] = 0  # the likeliest token is then a word's, never the end or a lone byte
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def sessions(home: Path) -> list[Path]:
    return sorted((home / ".local/state/vllava/sessions").glob("*.jsonl"))


def turns(path: Path) -> list[Row]:
    """The rows behind the header; each must be whole."""
    header, *rest = (json.loads(line) for line in path.read_text().splitlines())
    assert header["type"] == "session"
    assert path.read_bytes().endswith(b"\n")
    return rest


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def letters(text: str) -> str:
    """Without spaces and line ends, which a screen moves."""
    return "".join(clean(text).split())


def test_a_person_types_completes_pastes_edits_and_leaves(tmp_path: Path) -> None:
    shutil.copy(demo.CLIPS / "blue-star-grows.mp4", tmp_path / "my star.mp4")
    terminal = Terminal("--model", "demo", CLIP, home=tmp_path)
    terminal.prompts()
    before = terminal.left_tokens
    terminal.enter("What happens in this video?", "> What happens in this video?", MOVES)
    assert before > terminal.left_tokens > before - 50
    assert sum(bool(LEFT.search(line)) for line in terminal.shown) == 1, "it stands beside the open prompt alone"

    terminal.type(f"/fra{TAB}")
    terminal.prompts("/frames")
    terminal.type(CTRL_C)
    terminal.shows("> /frames", ">")
    terminal.type(f"/set temp{TAB}")
    terminal.prompts("/set temperature")
    terminal.enter_more("0.0", "temperature  0")
    terminal.enter("/undoo", "vllava: There is no /undoo. Did you mean /undo? /help lists", "the commands.")

    terminal.type("never asked")
    terminal.prompts("never asked")
    terminal.type(CTRL_C)
    terminal.shows("> never asked", ">")
    terminal.type("What shape")
    terminal.prompts("What shape")
    terminal.resize(40)
    terminal.type(" is it?")
    terminal.prompts("What shape is it?")
    terminal.resize(60)
    terminal.enter_more("", "> What shape is it?", "Circle.")

    terminal.type(PASTE.format("What colour\nis it?"))
    terminal.shows("> What colour", "… is it?")
    terminal.enter_more("", "> What colour", "… is it?", "Red.")
    terminal.type(f'"""And the{ENTER}')
    terminal.shows('> """And the', "…")
    terminal.enter_more('background?"""', '… background?"""', "I am a tiny demo model: I only know moving shapes.")

    terminal.type(f"/open my{TAB}")
    terminal.prompts(r"/open my\ star.mp4")
    terminal.enter_more("", "A new conversation. About my star.mp4.")
    terminal.enter("What does the star do?", "It grows.")
    terminal.type(f"/edit 1{ENTER}")
    terminal.shows("> /edit 1", "> What does the star do?")
    terminal.type(CTRL_U)
    terminal.shows("> /edit 1", ">")
    terminal.enter("What shape is it?", "Star.")
    terminal.type(UP)
    terminal.prompts("What shape is it?")
    terminal.type(CTRL_C)
    terminal.shows("> What shape is it?", ">")
    terminal.type(CTRL_D)
    assert terminal.end() == 0
    assert terminal.has_echo

    first, second = sessions(tmp_path)
    assert [row["question"] for row in turns(first)] == [
        "What happens in this video?",
        "What shape is it?",
        "What colour\nis it?",
        "And the\nbackground?",
    ]
    assert [(row["number"], row["question"]) for row in turns(second)] == [
        (1, "What does the star do?"),
        (1, "What shape is it?"),
    ]
    assert turns(second)[1]["media"][0]["path"] == str(tmp_path / "my star.mp4")
    history = tmp_path / ".local/state/vllava/history"
    assert "never asked" not in history.read_text()
    assert "+/set temperature 0.0\n" in history.read_text()
    assert [mode(path) for path in (history, first, second, first.parent)] == [0o600, 0o600, 0o600, 0o700]


@pytest.mark.skipif(os.name != "posix", reason="terminals are made with pexpect")
def test_a_dumb_terminal_is_greeted_and_left_with_a_plain_word(tmp_path: Path) -> None:
    import pexpect

    shown, code = pexpect.run(
        f"{sys.executable} -m vllava_cli chat --model demo '{CLIP}'",
        cwd=str(tmp_path),
        env=environment_of(tmp_path, TERM="dumb"),  # type: ignore[arg-type]
        events={"> ": "quit\n"},
        withexitstatus=True,
    )
    greeting = f"About {CLIP.name}. /help lists the commands, Ctrl-D leaves."
    assert (shown.decode().split("\r\n")[-3:], code) == ([greeting, "> quit", ""], 0)
    assert "\x1b" not in shown.decode() and "\r\x20" not in shown.decode()


def test_ctrl_c_keeps_what_was_said_and_a_killed_chat_goes_on(
    talkative: Path, clip: Path, tmp_path: Path, shell: Run
) -> None:
    terminal = Terminal("--model", talkative, *LONG, clip, home=tmp_path)
    terminal.prompts()
    terminal.ask_at_length("what is this")
    terminal.type(CTRL_C)
    stopped = "Stopped. The text so far is kept; /undo removes it."
    terminal.shows(stopped, ">")
    shown = terminal.between("> what is this", stopped)
    terminal.ask_at_length("what then")
    terminal.type(CTRL_C * 3)
    terminal.shows(stopped, ">")
    terminal.enter("/set max-new-tokens 5", "max-new-tokens  5")
    terminal.enter("and then", "Cut off after 5 tokens: /set max-new-tokens allows more.")
    left_tokens = terminal.left_tokens
    (session,) = sessions(tmp_path)
    kept = session.read_bytes()
    first, second, third = turns(session)
    assert [row["stop_reason"] for row in (first, second, third)] == ["interrupted", "interrupted", "length"]
    assert letters(first["answer"]) == letters(shown).replace("^C", "")
    assert len(third["answer_ids"]) == 5

    terminal.enter("/set max-new-tokens 3500", "max-new-tokens  3500")
    terminal.ask_at_length("what is in this clip")
    assert terminal.kill(signal.SIGKILL) == 128 + signal.SIGKILL
    assert session.read_bytes() == kept

    resumed = Terminal("--continue", session.stem, *LONG, home=tmp_path, columns=100)
    resumed.prompts()
    assert resumed.lines == ["Going on after 3 turns. About clip.mp4. The last question: and then", ">"]
    assert resumed.left_tokens == left_tokens
    assert session.read_bytes() == kept
    other = shell("chat", "--session", session)
    assert (other.code, other.out) == (75, "")
    assert other.err == (
        f"vllava: '{session}' is being written by another vllava. Wait until it ends, or name another file.\n"
    )
    resumed.enter("/set max-new-tokens 5", "max-new-tokens  5")
    resumed.enter("what is in this clip", "Cut off after 5 tokens: /set max-new-tokens allows more.")
    assert session.read_bytes().startswith(kept)
    *before, fourth = turns(session)
    assert before == [first, second, third]
    assert (fourth["number"], fourth["question"], fourth["stop_reason"]) == (4, "what is in this clip", "length")
    resumed.type(f"/show{ENTER}")
    resumed.until_ready(after="kept in")
    said = " ".join(resumed.lines)
    assert [f"turn {number} " in said for number in range(1, 6)] == [True] * 4 + [False]

    resumed.type("half a line")
    resumed.prompts("half a line")
    assert not resumed.has_echo
    assert resumed.kill(signal.SIGTERM) == 128 + signal.SIGTERM
    assert resumed.has_echo
    assert resumed.screen.mode == {DECAWM, DECTCEM}
    assert turns(session) == [first, second, third, fourth]


def test_a_closed_terminal_loses_nothing_of_an_answer(talkative: Path, clip: Path, tmp_path: Path) -> None:
    words = ("--model", talkative, *LONG, "--session", "talk.jsonl", clip)
    terminal = Terminal(*words, home=tmp_path)
    terminal.prompts()
    terminal.ask_at_length("what is this")
    shown = terminal.between("> what is this")
    assert terminal.hang_up() == 128 + signal.SIGHUP
    (turn,) = turns(tmp_path / "talk.jsonl")
    assert (turn["number"], turn["stop_reason"]) == (1, "interrupted")
    assert letters(turn["answer"]).startswith(letters(shown))
    assert sessions(tmp_path) == []


def test_lines_of_a_pipe_are_answered_plainly(shell: Run, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    shutil.copy(CLIP, clip)
    asked = b'What happens in this video?\n\n/nonsense\n"""What shape\nis it?"""\n/undo\nAnd its colour?'
    done = shell("chat", "--model", "demo", "--session", "talk.jsonl", "clip.mp4", stdin=asked)
    kept = turns(tmp_path / "talk.jsonl")
    assert done == Shell(
        code=1,
        out="".join(f"{row['answer']}\n" for row in kept if row["type"] == "turn"),
        err=f"{DEMO_NOTICE}\nvllava: There is no /nonsense. /help lists the commands.\nTook back: What shape is it?\n",
    )
    assert done.out.startswith(f"{MOVES}\n")
    assert done.out.endswith("\nRed.\n")
    assert [(row["type"], row["number"]) for row in kept] == [("turn", 1), ("turn", 2), ("undo", 2), ("turn", 2)]
    assert kept[1]["question"] == "What shape\nis it?"

    assert shell("chat", "--session", "talk.jsonl", CLIP) == Shell.failed(
        f"The session isn't about '{CLIP}'. Leave this clip out, and /open or /add it in the chat.", code=2
    )


def test_a_chat_that_began_with_a_video_takes_a_picture_and_the_other_way_round(shell: Run) -> None:
    star = demo.CLIPS / "yellow-star.png"
    asked = {
        CLIP: (MOVES, f"What happens in this video?\n/open {star}\nWhat colour is it?\n"),
        star: ("Yellow.", f"What colour is it?\n/open {CLIP}\nWhat happens in this video?\n"),
    }
    said = []
    for clip, (first, lines) in asked.items():
        done = shell("chat", "--model", "demo", clip, stdin=lines.encode())
        assert (done.code, done.out.splitlines()[0]) == (0, first)
        said.append(done.out.splitlines())
    assert said[0] == said[1][::-1]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["-"], 2, "stdin, -, is where a chat's questions come from: save the clip to a file and name that."),
        (["-c", "--session", "x"], 2, "--session and --continue can't be combined. Give one of them."),
        (["-c"], 1, "There is no session to continue in {}: vllava chat CLIP begins one."),
    ],
)
def test_what_cannot_begin_is_one_sentence(
    words: list[str], code: int, message: str, shell: Run, tmp_path: Path
) -> None:
    fault = message.format(tmp_path / ".local/state/vllava/sessions")
    assert shell("chat", *words) == Shell.failed(fault, code=code)


def test_a_bad_clip_is_told_also_where_stdin_is_closed(tmp_path: Path) -> None:
    command, settings = f"exec {sys.executable} -m vllava_cli chat -q nothere.mp4 <&-", environment_of(tmp_path)
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=settings, capture_output=True, text=True)
    told = "vllava: There is no file 'nothere.mp4'. Check the path.\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", told)
