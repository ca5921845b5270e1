"""`vllava demo`: paths that exist, and questions that can be pasted."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

from tests.commands.shell import Shell
from vllava_cli import demo

Run = Callable[..., Shell]


def test_paths_alone_are_a_line_each(shell: Run) -> None:
    done = shell("demo", "--paths")
    assert (done.code, done.err) == (0, "")
    assert [Path(line) for line in done.out.splitlines()] == demo.clips()
    assert all(Path(line).is_file() for line in done.out.splitlines())


def test_every_suggested_command_names_a_clip_and_a_question(shell: Run) -> None:
    lines = [line.strip() for line in shell("demo").out.splitlines()]
    commands = [shlex.split(line) for line in lines if line.startswith("vllava ask")]
    assert [(Path(words[4]).name, words[5]) for words in commands] == [(n, q) for n, q, _ in demo.QUESTIONS]
    assert all(Path(words[4]).is_file() for words in commands)


def test_it_is_labelled_a_demo_wherever_it_speaks(quick: Run) -> None:
    label = "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality.\n"
    clip = demo.clips()[0]
    assert quick("ask", "--model", "demo", clip, "What is it?").err == label
    assert quick("ask", "--model", "demo", clip, "What is it?", "--quiet").err == ""
    assert "The demo model is a tiny Video-LLaVA" in quick("demo").out
    assert "demo: tiny" in quick("doctor", "--model", "demo").out
