"""The command line: help without heavy imports, versions, usage errors, exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vllava_cli
from tests.commands.shell import Shell, environment_of
from vllava_cli.nouns import DEFAULT_MODEL

Run = Callable[..., Shell]
HEAVY = ("torch", "transformers", "numpy", "av", "PIL", "rich", "huggingface_hub", "starlette", "uvicorn")
MAIN = "from vllava_cli.cli import main; main()"
WATCH = """
import sys
sys.argv = ["vllava", *{words!r}]
from vllava_cli.cli import main
code = main()
heavy = [name for name in {heavy!r} if name in sys.modules]
print("HEAVY", heavy, "CODE", code, file=sys.stderr)
"""


def python(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script in a process that has nothing of this one's settings."""
    command, settings = [sys.executable, "-c", script], environment_of(folder, **environment)
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=settings, stdin=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["ask", "--help"], 0),
        ([], 2),
        (["ask", "--no-such-option"], 2),
        (["ask", "Why is this funny?"], 2),
        (["ask", "a.mp4", "Why?", "--start", "3", "--end", "3"], 2),
        (["frames", "a.mp4", "--at", "1", "--end", "2"], 2),
        (["bench", "--plot", "a.jpg"], 2),
        (["bench", "--compare", "gone.json"], 1),
        (["bench", "--save", "gone/a.json"], 1),
        (["merge", "all.jsonl", "gone.jsonl"], 1),
        (["find", "--help"], 0),
        (["serve", "--help"], 0),
        (["serve", "--status"], 1),
        (["serve", "--stop"], 1),
        (["serve", "--port", "1", "--host", "::"], 2),
        (["find", "a red circle", "clips", "--unsure", "1"], 2),
    ],
)
def test_help_version_and_usage_errors_import_nothing_heavy(words: list[str], code: int, tmp_path: Path) -> None:
    done = python(WATCH.format(words=words, heavy=HEAVY), tmp_path)
    assert done.stderr.splitlines()[-1] == f"HEAVY [] CODE {code}"


def test_frames_are_drawn_without_the_libraries_of_the_model(clip: Path, tmp_path: Path) -> None:
    for model, libraries in (("demo", HEAVY[:2]), (DEFAULT_MODEL, (*HEAVY[:2], "huggingface_hub"))):
        script = WATCH.format(words=["frames", str(clip), "--overwrite", "-m", model], heavy=libraries)
        done = python(script, tmp_path)
        assert (done.stdout, done.stderr.splitlines()[-1]) == ("clip-frames.png\n", "HEAVY [] CODE 0")


def test_a_question_to_a_usual_model_is_answered_without_transformers(clip: Path, tmp_path: Path) -> None:
    libraries = ("transformers", "accelerate", "torch._dynamo")
    script = WATCH.format(words=["ask", "--quiet", "--model", "demo", str(clip), "What happens?"], heavy=libraries)
    assert python(script, tmp_path).stderr.splitlines()[-1] == "HEAVY [] CODE 0"


def test_version(shell: Run) -> None:
    assert shell("--version") == Shell(code=0, out=f"vllava {vllava_cli.__version__}\n", err="")


def test_help_is_a_command_too(shell: Run) -> None:
    assert shell("help", "merge") == shell("merge", "--help")
    assert shell("help") == shell("--help")
    assert shell("help", "nothing") == Shell.failed("No such command 'nothing'. vllava -h shows the help.", code=2)


def test_a_usage_error_shows_no_control_characters(shell: Run) -> None:
    done = shell("ask", "--\x1b]0;owned\x07", "clip.mp4", "Why?")
    assert done.code == 2
    assert done.out == ""
    assert "\x1b" not in done.err
    assert "No such option" in done.err


def test_a_full_disk_is_one_sentence() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "vllava_cli", "--help"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


FAILING = """
import os, sys
sys.argv = ["vllava", "demo"]
from vllava_cli.commands import demo
def run(*_, **__):
    raise OSError(24, "Too many open files")
demo.run = run
from vllava_cli.cli import main
os._exit(main())
"""


def test_a_failure_of_the_system_that_nobody_expected_is_a_bug_and_not_told_as_stdouts() -> None:
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")
    *traceback, fault, bug = done.stderr.splitlines()
    assert traceback[0] == "Traceback (most recent call last):"
    assert fault == "OSError: [Errno 24] Too many open files"
    assert bug == "vllava: This is a bug in vllava: please report it with the lines above."


def closed(how: str, *words: str) -> Shell:
    """vllava as a shell starts it with a closed stream: "2>&-"."""
    command = ["sh", "-c", f'exec "$0" -m vllava_cli "$@" {how}', sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return Shell(code=done.returncode, out=done.stdout, err=done.stderr)


def test_a_closed_stdout_is_one_sentence() -> None:
    assert closed(">&-", "demo", "--paths") == Shell.failed(
        "The answer can't be written to stdout: Bad file descriptor."
    )


def test_a_closed_stderr_costs_no_answer(tmp_path: Path) -> None:
    done = closed("2>&-", "demo", "--paths")
    assert (done.code, len(done.out.splitlines())) == (0, 8)
    out = tmp_path / "out.jsonl"
    missing = closed("2>&-", "batch", "--model", "demo", "What?", str(tmp_path / "none.mp4"), "-o", str(out))
    assert (missing.code, missing.out) == (1, "")
    assert out.read_text().count("\n") == 1, "nothing that is told may land in the file"


def test_a_closed_stdin_asks_nothing(clip: Path) -> None:
    done = closed("<&-", "ask", str(clip))
    sentence = 'No question was given: vllava ask CLIP... "QUESTION", or pipe it to stdin.'
    assert done == Shell.failed(sentence, code=2)


@pytest.mark.parametrize("shell_name", ["bash", "zsh", "fish"])
def test_completion_is_offered(shell_name: str, tmp_path: Path) -> None:
    done = python(MAIN, tmp_path, _VLLAVA_COMPLETE=f"source_{shell_name}")
    assert "vllava" in done.stdout
    assert "Traceback" not in done.stderr


def test_completion_knows_commands_and_values(tmp_path: Path) -> None:
    for name, kind in (("LanguageBind--Video-LLaVA-7B-hf", "video_llava"), ("google--bert", "bert")):
        snapshot = tmp_path / "hub" / f"models--{name}" / "snapshots" / "0f3a"
        snapshot.mkdir(parents=True)
        (snapshot / "config.json").write_text(f'{{"model_type": "{kind}"}}')

    def complete(words: str, count: int) -> list[str]:
        settings = {"COMP_WORDS": words, "COMP_CWORD": str(count), "HF_HUB_CACHE": str(tmp_path / "hub")}
        return python(MAIN, tmp_path, _VLLAVA_COMPLETE="complete_bash", **settings).stdout.split()

    assert complete("vllava d", 1) == ["doctor", "demo"]
    assert complete("vllava ask --fit ", 3) == ["crop", "pad", "squash"]
    assert complete("vllava ask --server ", 3) == ["auto", "off"]
    assert complete("vllava serve --allow https,l", 3) == ["https,loopback", "https,link-local"]
    assert complete("vllava ask --model ", 3) == ["demo", "LanguageBind/Video-LLaVA-7B-hf"]
