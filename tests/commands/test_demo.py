"""`vllava demo`: paths that exist, and questions that can be pasted."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

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


def test_it_says_that_there_is_a_benchmark(shell: Run) -> None:
    *_, command, about = shell("demo").out.splitlines()
    assert command == "  vllava demo --benchmark demo-bench"
    assert about == "    35 clips with 239 questions and their right answers, to try batch, score and report."


def test_it_is_labelled_a_demo_wherever_it_speaks(quick: Run) -> None:
    label = "vllava: demo model: tiny, knows only moving shapes, and says nothing about Video-LLaVA's quality.\n"
    clip = demo.clips()[0]
    assert quick("ask", "--model", "demo", clip, "What is it?").err == label
    assert quick("ask", "--model", "demo", clip, "What is it?", "--quiet").err == ""
    assert "The demo model is a tiny Video-LLaVA" in quick("demo").out
    assert "demo: tiny" in quick("doctor", "--model", "demo").out


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("is_there", [False, True])
def test_the_benchmark_is_copied_to_a_new_or_empty_folder(is_there: bool, quick: Run, tmp_path: Path) -> None:
    folder = tmp_path / "my bench" / "of today"
    if is_there:
        folder.mkdir(parents=True)
    done = quick("demo", "--benchmark", folder)
    assert (done.code, done.err) == (0, "")
    assert contents(folder) == contents(demo.BENCHMARK)
    assert all(path.stat().st_mode & stat.S_IWUSR for path in (folder, *folder.rglob("*")))
    jobs, rows = folder / "choices.jsonl", folder / "rows.jsonl"
    first, _, title, *commands = done.out.splitlines()
    assert (first, title) == (str(folder), "Try")
    assert [shlex.split(command) for command in commands] == [
        shlex.split(f"vllava batch --jobs '{jobs}' --videos '{folder}/videos' --model demo -o '{rows}'"),
        shlex.split(f"vllava score '{rows}' --by type"),
        shlex.split(f"vllava report '{rows}' -o '{folder}/report.html'"),
    ]


def test_paths_of_the_copied_benchmark_are_a_line_each(quick: Run, tmp_path: Path) -> None:
    done = quick("demo", "--benchmark", tmp_path / "bench", "--paths")
    assert (done.code, done.err) == (0, "")
    assert [Path(line) for line in done.out.splitlines()] == sorted(
        path for path in (tmp_path / "bench").rglob("*") if path.is_file()
    )


@pytest.mark.parametrize("name", ["full", "full/file"])
def test_the_benchmark_overwrites_nothing(name: str, quick: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    message = f"{str(tmp_path / name)!r} exists and isn't an empty folder: name a new one."
    assert quick("demo", "--benchmark", tmp_path / name) == Shell.failed(message, code=2)
    assert contents(tmp_path / "full") == {"file": b"mine"}


def test_a_benchmark_that_cannot_be_written_is_told_in_a_sentence(quick: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    done = quick("demo", "--benchmark", tmp_path / "file" / "bench")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"vllava: {str(tmp_path / 'file' / 'bench')!r} can't be written: ")
