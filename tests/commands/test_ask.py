"""`vllava ask` as its users meet it: one process, what it prints where, and its exit code."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.checkpoints import edit_json, write_checkpoint
from tests.clips import write_clip
from tests.commands.shell import Shell, environment_of
from tests.engine.engines import ask, engine_of
from vllava_cli.answers import Conversation, Sampling
from vllava_cli.choices import shares
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Framing

Run = Callable[..., Shell]


@pytest.fixture
def shell(quick: Run) -> Run:
    return quick


def test_whole_streamed_and_json_answers_are_the_same(shell: Run, small_checkpoint: Path, clip: Path) -> None:
    words = ["ask", clip, "what is this", "--model", small_checkpoint, "--max-new-tokens", "12"]
    streamed, whole, report = shell(*words), shell(*words, "--no-stream"), shell(*words, "--json")
    assert streamed.out == whole.out == json.loads(report.out)["answer"] + "\n"
    assert (streamed.code, streamed.err, len(streamed.out) > 5) == (0, "", True)


@pytest.mark.parametrize(
    ("framing", "times_s"),
    [
        (["--start", "0:00:01", "--end", "1.8"], [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7]),
        (["--at", "2,0:00,1.55"], [2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 1.5, 1.5]),
    ],
)
def test_a_trim_and_named_moments_move_the_frames(
    framing: list[str], times_s: list[float], shell: Run, small_checkpoint: Path, clip: Path
) -> None:
    words = ["ask", clip, "what", "--model", small_checkpoint, "--json", "--max-new-tokens", "1", *framing]
    assert json.loads(shell(*words).out)["clips"][0]["frame_times_s"] == times_s


def test_a_clip_from_stdin_is_answered_as_its_file_is(shell: Run, small_checkpoint: Path, clip: Path) -> None:
    words = ["what is this", "--model", small_checkpoint, "--max-new-tokens", "12", "--json"]
    piped, named = (
        json.loads(done.out)
        for done in (shell("ask", "-", *words, stdin=clip.read_bytes()), shell("ask", clip, *words))
    )
    assert piped["answer"] == named["answer"]
    assert piped["clips"] == [named["clips"][0] | {"path": "-"}]
    assert piped["made_with"] == named["made_with"]


def test_a_clip_that_takes_too_much_is_one_sentence(shell: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    # So large that whoever counts the time, beside the import of torch, is sure to come before the end.
    clip = write_clip(tmp_path / "large.mp4", 48, width=1920, height=1080)
    done = shell("ask", clip, "what", "--model", small_checkpoint, "--decode-timeout", "0.000001")
    assert done == Shell.failed(
        f"'{clip}' took longer than 1e-06 s to decode. Raise --decode-timeout or cut it with --start and --end."
    )


def test_the_question_comes_from_stdin(shell: Run, small_checkpoint: Path, clip: Path) -> None:
    words = ["--model", small_checkpoint, "--max-new-tokens", "12"]
    given = shell("ask", clip, "what is this", *words)
    assert shell("ask", clip, "-", *words, stdin=b"what is this\n") == given
    assert shell("ask", clip, *words, stdin=b"what is this\n") == given


def test_several_media_are_taken_with_a_warning(
    shell: Run, small_checkpoint: Path, clip: Path, other_clip: Path
) -> None:
    done = shell("ask", clip, other_clip, "same?", "--model", small_checkpoint, "--max-new-tokens", "3", "--json")
    report = json.loads(done.out)
    assert [each["path"] for each in report["clips"]] == [str(clip), str(other_clip)]
    assert done.err == (
        "vllava: warning: the model was trained on one clip at a time, so answers about several may be poor.\n"
    )


CHOICES = ("a red circle", "the", "left .")


def test_the_answer_is_the_likeliest_choice(shell: Run, small_checkpoint: Path, clip: Path) -> None:
    words = ["ask", clip, "what is this", "--model", small_checkpoint, "--choices", ", ".join(CHOICES)]
    conversation, sampling = Conversation(attached=(sample(clip, Framing()),)), Sampling(choices=CHOICES)
    wanted = ask(engine_of(small_checkpoint), conversation, "what is this", sampling)
    done = shell(*words, "--verbose")
    assert (done.code, done.out) == (0, f"{wanted.text}\n")
    *_, said, stopped = done.err.splitlines()
    assert said == shares(CHOICES, wanted.probabilities)
    assert stopped.startswith("stopped: choice; ")


def test_the_model_comes_from_the_environment(shell: Run, small_checkpoint: Path, clip: Path) -> None:
    setting = {"VLLAVA_MODEL": str(small_checkpoint)}
    report = json.loads(shell("ask", clip, "what", "--json", "--max-new-tokens", "1", environment=setting).out)
    assert report["model"] == str(small_checkpoint)


@pytest.mark.parametrize("kind", ["cut", "missing"])
def test_a_bad_file_is_one_sentence_and_exit_1(kind: str, shell: Run, small_checkpoint: Path, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    done = shell("ask", f"{kind}.mp4", "what", "--model", small_checkpoint)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert done.err.startswith("vllava: ") and f"{kind}.mp4" in done.err and done.err.endswith(".\n")


def test_weights_that_cannot_be_loaded_are_one_sentence(shell: Run, clip: Path, tmp_path: Path) -> None:
    weights = write_checkpoint(tmp_path / "damaged") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    done = shell("ask", clip, "what", "--model", "./damaged")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "model.safetensors can't be used: it is not a safetensors file, or it is damaged" in done.err


def test_a_prompt_too_long_is_one_sentence_before_weights_are_read(shell: Run, clip: Path, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tight", context=64)
    # transformers' own tokenizer warns of longer texts
    edit_json(folder / "tokenizer_config.json", model_max_length=64)
    (folder / "model.safetensors").write_bytes(b"never read")
    done = shell("ask", clip, "why " * 40, "--model", folder)
    said = re.fullmatch(
        r"vllava: The prompt has (\d+) tokens \(40 for 1 video, (\d+) for text\), and the context holds 64: "
        r"shorten the question\.\n",
        done.err,
    )
    assert (done.code, done.out) == (1, "") and said and int(said[1]) == 40 + int(said[2])
    done = shell("ask", clip, "what", "--model", folder, "--choices", "the," + "a " * 60)
    assert (done.code, done.out, "the longest of the choices" in done.err) == (1, "", True)


def started(small_checkpoint: Path, clip: Path, *words: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "vllava_cli", "ask", clip, "what", "--model", small_checkpoint, "--no-guard"]
    environment = environment_of(small_checkpoint)
    return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)


def test_ctrl_c_keeps_what_was_printed_and_exits_130(tmp_path: Path, clip: Path) -> None:
    slow = write_checkpoint(tmp_path / "slow", layers=12)  # 2 layers are through before Ctrl-C comes
    process = started(slow, clip, "--max-new-tokens", "900")
    assert process.stdout
    first = process.stdout.read(8)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, b"")
    assert (first + rest).endswith(b"\n")


def test_ctrl_c_while_loading_is_quiet(tmp_path: Path, clip: Path) -> None:
    slow = write_checkpoint(tmp_path / "slow", layers=12)
    process = started(slow, clip, "--max-new-tokens", "900", "--verbose")
    assert process.stderr
    plan = process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, plan.partition(b" ")[0]) == (130, b"device:")
    assert b"Traceback" not in err and b"vllava: " not in err


def test_a_closed_pipe_ends_quietly(small_checkpoint: Path, clip: Path) -> None:
    process = started(small_checkpoint, clip, "--max-new-tokens", "900")
    assert process.stdout
    assert process.stderr
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=60) == 141
