"""`vllava bench` with made-up figures: what is shown, kept and compared, and the exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from tests.commands.bench_figures import AGREEMENT, LINES, SHORT, SPEED, FakeBenchmark
from tests.commands.shell import Shell
from vllava_cli import demo
from vllava_cli.commands.bench import QUESTION, Bench, run, words_of
from vllava_cli.commands.bench_report import read_record
from vllava_cli.engine.measuring.figures import Agreement, BenchTask
from vllava_cli.errors import (
    CheckpointError,
    ContextError,
    LockedError,
    MediaError,
    OutputError,
    UsageError,
    VllavaError,
)
from vllava_cli.nouns import Wishes
from vllava_cli.screen import Screen
from vllava_cli.storage.files import Part

FP32 = Wishes(model="demo", device="cpu", precision="fp32")
BF16, FLASH = replace(FP32, precision="bf16"), replace(FP32, attention="flash_attention_2")
CLIP = demo.CLIPS / "red-circle-moves-left.mp4"
BENCH = Bench(clip=CLIP, task=BenchTask(question="What happens?", repeat=3, batches=(1, 16)), wishes=(FP32,))
HEAD = """\
clip   red-circle-moves-left.mp4, 192x192, 60 frames
asked  What happens? (64 new tokens)
shown  median of 3 (least-most)
"""
DEMO = "vllava: demo model: tiny, and its figures say nothing about the 7B model's speed.\n"
ALL = "vllava: about 70 s to measure configuration 1 of 1.\n"
TWO, FIRST, LAST = (
    f"vllava: about 70 s to measure configuration {place}.\n" for place in ("1 of 2", "1 of 3", "3 of 3")
)
TABLE = """\

demo: cpu, float32, sdpa
                                                vllava                 snippet  times as fast   limit  of limit
load                  s            0.500 (0.400-0.600)                    2.00           4.0x   0.100       20%
frames                s         0.0205 (0.0200-0.0210)  0.0550 (0.0500-0.0600)           2.7x       -         -
prefill               tokens/s                  12,346                  10,000           1.2x  20,000       62%
first token           ms              41.2 (40.8-42.0)        81.0 (80.0-82.0)           2.0x       -         -
decode, batch 1       tokens/s           400 (390-410)            100 (99-101)           4.0x     500       80%
decode, batch 16 [1]  tokens/s                     800                       -              -       -         -
peak memory           MiB                          512                   1,024           2.0x       -         -
[1]     The snippet ran out of memory.
device  250 GFLOP/s in a large product, 12.0 GB/s in a large copy.
"""


@dataclass(frozen=True)
class Done:
    """What a run did."""

    code: int
    out: str
    err: str


def done(bench: Bench, tools: FakeBenchmark | None = None, *, is_verbose: bool = False) -> Done:
    out, err = io.StringIO(), io.StringIO()
    code = run(bench, Screen(out=out, err=err, is_verbose=is_verbose), tools or FakeBenchmark())
    return Done(code, out.getvalue(), err.getvalue())


def test_a_table_stands_between_what_was_asked_and_how_fast_the_device_is() -> None:
    assert done(BENCH) == Done(0, HEAD + TABLE, DEMO + ALL)


def test_reasons_are_told_where_they_are_asked_for() -> None:
    found = done(BENCH, is_verbose=True)
    assert (found.code, found.out) == (0, HEAD + TABLE)
    whats = [line.partition(":")[0] for line in found.err.splitlines()]
    assert whats == ["vllava", "device", "dtype", "quantisation", "attention", "threads", "vllava"]


def test_a_clip_of_ours_is_named() -> None:
    found = done(replace(BENCH, clip=None, task=replace(BENCH.task, repeat=1)))
    assert found.err == f"vllava: no clip was given, so a clip of the demo is used: {CLIP}\n" + DEMO + ALL
    assert found.out.splitlines()[2] == "shown  one measurement each"


def test_what_fails_in_one_configuration_leaves_the_others() -> None:
    tools = FakeBenchmark(faults={0: (3, SHORT)})
    found = done(replace(BENCH, wishes=(FP32, FLASH, BF16)), tools)
    first, last, summary = found.out.removeprefix(f"{HEAD}\n").split("\n\n")
    flash = (
        "--attention flash is refused: flash-attn runs on NVIDIA and AMD GPUs, not on the CPU; use --attention sdpa."
    )
    assert first.splitlines()[2:] == [
        "load     s            0.500 (0.400-0.600)                    2.00           4.0x   0.100       20%",
        "frames   s         0.0205 (0.0200-0.0210)  0.0550 (0.0500-0.0600)           2.7x       -         -",
        "prefill  tokens/s                  12,346                  10,000           1.2x  20,000       62%",
        "device  250 GFLOP/s in a large product, 12.0 GB/s in a large copy.",
    ]
    assert (last.splitlines()[0], tools.calls) == ("demo: cpu, bfloat16, sdpa", ["float32", "bfloat16"])
    assert summary == (
        "configurations\n"
        "precision  attention  decode tokens/s  first token ms  prefill tokens/s  peak MiB\n"
        "fp32       auto [1]                 -               -            12,346         -\n"
        "fp32       flash [2]                -               -                 -         -\n"
        "bf16       auto                   400            41.2            12,346       512\n"
        f"[1]  {SHORT}\n"
        f"[2]  {flash}\n"
    )
    assert found == Done(0, found.out, f"{DEMO}{FIRST}vllava: {SHORT}\nvllava: fp32, flash: {flash}\n{LAST}")


@pytest.mark.parametrize("fault", [SHORT, CheckpointError("It lacks kernels."), ContextError("It is too long.")])
def test_a_run_of_which_everything_failed_fails(fault: VllavaError) -> None:
    found = done(BENCH, FakeBenchmark(faults={0: (0, fault)}))
    assert (found.code, found.err) == (1, f"{DEMO}{ALL}vllava: {fault}\n")
    assert found.out.endswith("\ndevice  250 GFLOP/s in a large product, 12.0 GB/s in a large copy.\n")


def test_a_fault_of_all_configurations_ends_the_run(tmp_path: Path) -> None:
    tools = FakeBenchmark(faults={0: (0, MediaError("The clip is gone."))})
    with pytest.raises(MediaError, match="The clip is gone"):
        done(replace(BENCH, save=tmp_path / "a.json"), tools)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("agreement", "code"),
    [(AGREEMENT, 0), (replace(AGREEMENT, equal_tokens=63), 1), (replace(AGREEMENT, must_be_equal=False), 0)],
)
def test_a_check_that_is_not_met_fails(agreement: Agreement, code: int) -> None:
    tools = FakeBenchmark(agreement=agreement)
    found = done(replace(BENCH, is_checked=True), tools)
    assert found.code == code
    assert found.out.startswith(f"{HEAD}{TABLE}check   {agreement.equal_tokens} of 64 greedy tokens are those of ")
    assert tools.calls == ["float32", "check"]


def test_the_object_is_all_that_json_prints_and_what_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    found = done(replace(BENCH, wishes=(BF16, FLASH), is_json=True, save=path))
    assert found.out.encode() == path.read_bytes()
    assert found.out.count("\n") == 1
    record = read_record(path)
    assert [(trial.precision, trial.lines, trial.speed) for trial in record.trials] == [
        ("bf16", LINES, SPEED),
        ("fp32", (), None),
    ]
    assert (record.model, record.clip.path, record.task) == ("demo", CLIP, BENCH.task)
    assert list(record.machine.versions) == ["vllava", "python", "torch", "transformers", "av", "bitsandbytes"]


def test_a_run_is_compared_with_what_its_own_file_had(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    done(replace(BENCH, save=path))
    before = read_record(path)
    task = replace(BENCH.task, new_tokens=32)
    found = done(replace(BENCH, task=task, wishes=(FP32, BF16), save=path, compare=path))
    assert found.code == 0
    assert found.out.split("\n\n")[-1].startswith(
        f"against the run of {before.machine.measured_at}\n"
        "different  --max-new-tokens was 64, is 32.\n"
        "not in it  cpu, bfloat16, sdpa\n"
        "cpu, float32, sdpa\n"
        "                              then     now             change      the snippet's\n"
        "load              s          0.500   0.500  within the spread  within the spread\n"
    )
    assert read_record(path).task.new_tokens == 32
    assert json.loads(path.read_bytes())["comparison"]["unmatched"] == ["cpu, bfloat16, sdpa"]


def test_files_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    foreign, gone = tmp_path / "a.txt", tmp_path / "gone" / "a.json"
    foreign.write_text("precious")
    for files, message in (
        ({"compare": foreign}, "was not written by vllava"),
        ({"compare": gone}, "can't be read: no such file or directory"),
        ({"save": gone}, "can't be written: no such file or directory"),
        ({"plot": gone.with_suffix(".png")}, "can't be written: no such file or directory"),
        ({"save": tmp_path}, "is a folder"),
    ):
        with pytest.raises(OutputError, match=message):
            done(replace(BENCH, clip=Path("none.mp4"), **files))  # type: ignore[arg-type]
    part = Part(tmp_path / "a.json")
    with pytest.raises(LockedError):
        done(replace(BENCH, clip=Path("none.mp4"), save=tmp_path / "a.json"))
    part.end()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert done(replace(BENCH, plot=path)).code == 0
    assert Image.open(path).size[0] == 1200


def test_ctrl_c_shows_and_saves_what_there_is(tmp_path: Path) -> None:
    path, tools = tmp_path / "a.json", FakeBenchmark(cut_after=2)
    found = done(replace(BENCH, wishes=(FP32, BF16), save=path), tools)
    assert (found.code, tools.calls) == (130, ["float32"])
    assert found.out.splitlines()[-2:] == [
        "prefill  tokens/s                  12,346                  10,000           1.2x  20,000       62%",
        "device  250 GFLOP/s in a large product, 12.0 GB/s in a large copy.",
    ]
    (trial,) = read_record(path).trials
    assert [figure.name for figure in trial.lines] == ["load", "frames", "prefill"]


def test_ctrl_c_at_the_end_of_a_configuration_begins_no_other() -> None:
    tools = FakeBenchmark(cut_after=len(LINES) - 1)
    found = done(replace(BENCH, wishes=(FP32, BF16), is_checked=True), tools)
    assert (found, tools.calls) == (Done(130, HEAD + TABLE, DEMO + TWO), ["float32"])


def test_ctrl_c_before_the_first_figure_leaves_an_earlier_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("precious")
    with pytest.raises(KeyboardInterrupt):
        done(replace(BENCH, save=path), FakeBenchmark(cut_after=-1))
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.json", "precious")]


def test_what_can_be_refused_is_refused_before_a_weight_is_read(small_checkpoint: Path, tmp_path: Path) -> None:
    for name in small_checkpoint.iterdir():
        if name.suffix != ".safetensors":
            (tmp_path / name.name).write_bytes(name.read_bytes())
    for bench, error, message in (
        (replace(BENCH, clip=demo.CLIPS / "two-shapes.png"), MediaError, "'two-shapes.png' is an image, but bench"),
        (replace(BENCH, wishes=(Wishes(model=str(tmp_path)),)), CheckpointError, "lacks"),
        (replace(BENCH, task=BenchTask(question="What? " * 5000)), ContextError, "tokens"),
    ):
        with pytest.raises(error, match=message):
            done(bench)


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ([], (None, QUESTION)),
        (["a.mp4"], (Path("a.mp4"), QUESTION)),
        (["Why?"], (None, "Why?")),
        (["a.mp4", "Why?"], (Path("a.mp4"), "Why?")),
        (["a.mp4", "Why?", "b.mp4"], "one clip and one question, but 3 words were given"),
        (["-"], "bench reads its clip often, so it can't come from stdin"),
        (["a.mp4", " "], "The question is empty"),
    ],
)
def test_words_are_a_clip_and_a_question_or_refused(words: list[str], meant: tuple[Path | None, str] | str) -> None:
    if isinstance(meant, tuple):
        assert words_of(words) == meant
    else:
        with pytest.raises(UsageError, match=meant):
            words_of(words)


def test_a_chart_replaces_no_figures_and_is_a_png() -> None:
    with pytest.raises(UsageError, match=r"--plot writes PNG: give a name that ends in .png instead of 'a.jpg'"):
        replace(BENCH, plot=Path("a.jpg"))
    with pytest.raises(UsageError, match="--plot would replace what is in 'a\\.png'"):
        replace(BENCH, plot=Path("a.png"), save=Path("a.png"))


FEW = ("--random-weights", "tiny", "--repeat", "1", "--batch-size", "1", "--max-new-tokens", "3", "--device", "cpu")


def test_everything_is_measured_saved_and_checked(shell: Callable[..., Shell], clip: Path, tmp_path: Path) -> None:
    done = shell(
        "bench",
        clip,
        "Why?",
        *FEW,
        "--attention",
        "auto,flash",
        "--precision",
        "fp32",
        "--check",
        "--json",
        "--save",
        "a.json",
        "-q",
    )
    record = read_record(tmp_path / "a.json")
    assert json.loads(done.out) == json.loads((tmp_path / "a.json").read_bytes())
    exact, impossible = record.trials
    names = "load|frames|vision|prefill|first token|decode, batch 1|peak memory|batch"
    assert "|".join(figure.name for figure in exact.lines) == names
    assert exact.agreement is not None
    assert exact.agreement.is_met
    assert exact.speed is not None
    assert str(impossible.fault).startswith("--attention flash is refused: flash-attn runs on NVIDIA and AMD GPUs, ")
    assert (done.code, done.err) == (0, f"vllava: fp32, flash: {impossible.fault}\n")
    assert (record.model, record.task.question, record.clip.path) == ("random tiny", "Why?", clip)
