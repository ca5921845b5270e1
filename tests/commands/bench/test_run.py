"""`vllava bench` with made-up figures: what is shown, kept and compared, and the exit codes."""

from __future__ import annotations

import io
import json
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from tests.commands.bench.parts import AGREEMENT, BATCH, DECODE, FRAMES, LINES, READING, SHORT, SPEED, FakeInstruments
from vllava_cli.commands.bench.request import Bench, Configuration, Outputs
from vllava_cli.commands.bench.run import run
from vllava_cli.commands.bench.saved import read
from vllava_cli.commands.bench.table import notes, table
from vllava_cli.errors import CheckpointError, ContextError, LockedError, MediaError, OutputError, VllavaError
from vllava_cli.measures import OVER, Agreement, Line
from vllava_cli.nouns import Wishes
from vllava_cli.screen import Screen
from vllava_cli.storage.files import Part

BENCH = Bench(clip=Path("/clips/a.mp4"), question="What happens?", repeat=3, batches=(1, 16))
BF16 = Configuration(precision="bf16", wishes=Wishes(precision="bf16"))
FLASH = Configuration(attention="flash", wishes=Wishes(attention="flash_attention_2"))
HEAD = """\
clip   a.mp4, 64x48, 24 frames
asked  What happens? (64 new tokens)
shown  median of 3 (least-most)
"""
DEMO = "vllava: demo model: tiny, and its figures say nothing about the 7B model's speed.\n"
TABLE = """\

demo: cpu, float32, sdpa
                                                vllava                 snippet  times as fast   limit  of limit
load                  s            0.500 (0.400-0.600)                    2.00           4.0x   0.100       20%
frames                s         0.0205 (0.0200-0.0210)  0.0550 (0.0500-0.0600)           2.7x  0.0100       49%
prefill               tokens/s                  12,346                  10,000           1.2x  20,000       62%
first token           ms              41.2 (40.8-42.0)        81.0 (80.0-82.0)           2.0x       -         -
decode, batch 1       tokens/s           400 (390-410)            100 (99-101)           4.0x     500       80%
decode, batch 16 [1]  tokens/s                     800                       -              -       -         -
peak memory [2]       MiB                          512                   1,024           2.0x       -         -
[1]     The snippet ran out of memory.
[2]     On a CPU it is all.
device  250 GFLOP/s in a large product, 12.0 GB/s in a large copy.
"""


@dataclass(frozen=True)
class Done:
    """What a run did."""

    code: int
    out: str
    err: str


def done(bench: Bench, tools: FakeInstruments | None = None, *, is_verbose: bool = False) -> Done:
    out, err = io.StringIO(), io.StringIO()
    code = run(bench, Screen(out=out, err=err, is_verbose=is_verbose), tools or FakeInstruments())
    return Done(code, out.getvalue(), err.getvalue())


def test_a_table_stands_between_what_was_asked_and_how_fast_the_device_is() -> None:
    tools = FakeInstruments()
    assert done(BENCH, tools) == Done(0, HEAD + TABLE, DEMO)
    assert tools.calls == ["frames /clips/a.mp4", "subject", "fetch", "plan None None", "contest 0", "free cpu"]


def test_reasons_are_told_where_they_are_asked_for() -> None:
    found = done(BENCH, is_verbose=True)
    assert (found.code, found.out) == (0, HEAD + TABLE)
    assert found.err == DEMO + (
        "device: cpu. It is the only one.\ndtype: float32. It is exact.\n"
        "quantisation: none. There is room.\nattention: sdpa. It is there.\n"
    )


def test_it_is_said_how_long_it_takes_and_the_least_only_where_that_is_long() -> None:
    short, long = (("at least", 20.0), ("about", 70.0)), (("at least", 600.0), ("about", 1200.0))
    assert done(BENCH, FakeInstruments(expected=short)).err == f"{DEMO}vllava: about 70 s to measure all.\n"
    found = done(replace(BENCH, configurations=(Configuration(), BF16)), FakeInstruments(expected=long))
    said = (
        "vllava: at least 10 min to measure this configuration.\nvllava: about 20 min to measure this configuration.\n"
    )
    assert found.err == DEMO + 2 * said


def test_more_than_a_limit_is_explained() -> None:
    lines = (replace(DECODE, limit=399.0), replace(BATCH, limit=799.0), replace(DECODE, limit=400.0))
    assert table(lines, None).splitlines()[1:] == [
        "decode, batch 1 [1]   tokens/s  400 (390-410)  100 (99-101)           4.0x    399      100%",
        "decode, batch 16 [2]  tokens/s            800             -              -    799      100%",
        "decode, batch 1       tokens/s  400 (390-410)  100 (99-101)           4.0x    400      100%",
    ]
    assert notes(lines) == [("[1]", OVER), ("[2]", f"{BATCH.note} {OVER}")]


def test_a_clip_of_ours_is_named() -> None:
    found = done(replace(BENCH, is_clip_ours=True, repeat=1))
    assert found.err == "vllava: no clip was given, so a clip of the demo is used: /clips/a.mp4\n" + DEMO
    assert found.out.splitlines()[2] == "shown  one measurement each"


def test_what_fails_in_one_configuration_leaves_the_others() -> None:
    tools = FakeInstruments(faults={0: (2, SHORT)})
    found = done(replace(BENCH, configurations=(Configuration(), FLASH, BF16)), tools)
    first, last, summary = found.out.removeprefix(f"{HEAD}\n").split("\n\n")
    flash = (
        "--attention flash is refused: flash-attn runs on NVIDIA and AMD GPUs, not on the CPU; use --attention sdpa."
    )
    assert first.splitlines()[2:] == [
        "load     s            0.500 (0.400-0.600)                    2.00           4.0x   0.100       20%",
        "frames   s         0.0205 (0.0200-0.0210)  0.0550 (0.0500-0.0600)           2.7x  0.0100       49%",
        "prefill  tokens/s                  12,346                  10,000           1.2x  20,000       62%",
        "device  250 GFLOP/s in a large product, 12.0 GB/s in a large copy.",
    ]
    assert last.splitlines()[0] == "demo: cpu, bfloat16, sdpa"
    assert tools.calls[3:] == [
        *("plan None None", "contest 0", "free cpu"),
        "plan None flash_attention_2",
        *("plan bf16 None", "contest 1", "free cpu"),
    ]
    assert summary == (
        "configurations\n"
        "precision  attention  decode tokens/s  first token ms  prefill tokens/s  peak MiB\n"
        "auto       auto [1]                 -               -            12,346         -\n"
        "auto       flash [2]                -               -                 -         -\n"
        "bf16       auto                   400            41.2            12,346       512\n"
        f"[1]  {SHORT}\n"
        f"[2]  {flash}\n"
    )
    assert found == Done(0, found.out, f"{DEMO}vllava: {SHORT}\nvllava: auto, flash: {flash}\n")


@pytest.mark.parametrize("fault", [SHORT, CheckpointError("It lacks kernels."), ContextError("It is too long.")])
def test_a_run_of_which_everything_failed_fails(fault: VllavaError) -> None:
    found = done(BENCH, FakeInstruments(faults={0: (0, fault)}))
    assert (found.code, found.err) == (1, f"{DEMO}vllava: {fault}\n")


def test_a_fault_of_all_configurations_ends_the_run(tmp_path: Path) -> None:
    tools = FakeInstruments(faults={0: (0, MediaError("The clip is gone."))})
    with pytest.raises(MediaError, match="The clip is gone"):
        done(replace(BENCH, outputs=Outputs(save=tmp_path / "a.json")), tools)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("agreement", "code", "told"),
    [
        (
            AGREEMENT,
            0,
            "64 of 64 greedy tokens are those of generate (all must be); logits differ by 1.5e-05 at most, "
            "and 0.0001 is allowed: met.",
        ),
        (
            replace(AGREEMENT, equal_tokens=63),
            1,
            "63 of 64 greedy tokens are those of generate (all must be); logits differ by 1.5e-05 at most, "
            "and 0.0001 is allowed: not met.",
        ),
        (
            replace(AGREEMENT, equal_tokens=63, must_be_equal=False, largest_difference=0.25),
            1,
            "63 of 64 greedy tokens are those of generate (in this dtype they may differ); logits differ by 0.25 at "
            "most, and 0.0001 is allowed: not met.",
        ),
    ],
)
def test_a_check_that_is_not_met_fails(agreement: Agreement, code: int, told: str) -> None:
    tools = FakeInstruments(agreement=agreement)
    found = done(replace(BENCH, is_checked=True), tools)
    assert (found.code, found.out) == (code, f"{HEAD}{TABLE}check   {told}\n")
    assert tools.calls[-4:] == ["contest 0", "free cpu", "check", "free cpu"]


def test_the_object_is_all_that_json_prints_and_what_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    found = done(replace(BENCH, configurations=(BF16, FLASH), outputs=Outputs(is_json=True, save=path)))
    assert found.out.encode() == path.read_bytes()
    assert found.out.count("\n") == 1
    record = read(path)
    lines = (LINES[0], FRAMES, *LINES[1:])
    assert [(trial.precision, trial.lines, trial.speed) for trial in record.trials] == [
        ("bf16", lines, SPEED),
        ("auto", (), None),
    ]
    assert (record.asked.model, record.machine.cpu, record.asked.clip.path) == ("demo", "A CPU", BENCH.clip)
    assert [name for name, _ in record.machine.versions] == [
        *("vllava", "python", "torch", "transformers", "av", "bitsandbytes")
    ]


def test_a_run_is_held_against_what_its_own_file_had(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    done(replace(BENCH, outputs=Outputs(save=path)))
    before = read(path)
    outputs = Outputs(save=path, compare=path)
    found = done(replace(BENCH, new_tokens=32, configurations=(Configuration(), BF16), outputs=outputs))
    assert found.code == 0
    assert found.out.split("\n\n")[-1] == (
        f"against the run of {before.machine.measured_at}\n"
        "different  --max-new-tokens was 64, is 32.\n"
        "not in it  cpu, bfloat16, sdpa\n"
        "cpu, float32, sdpa\n"
        "                              then     now             change      the snippet's\n"
        "load              s          0.500   0.500  within the spread  within the spread\n"
        "frames            s         0.0205  0.0205  within the spread  within the spread\n"
        "prefill           tokens/s  12,346  12,346  within the spread  within the spread\n"
        "first token       ms          41.2    41.2  within the spread  within the spread\n"
        "decode, batch 1   tokens/s     400     400  within the spread  within the spread\n"
        "decode, batch 16  tokens/s     800     800  within the spread                  -\n"
        "peak memory       MiB          512     512  within the spread  within the spread\n"
    )
    assert read(path).asked.new_tokens == 32
    assert json.loads(path.read_bytes())["comparison"]["unmatched"] == ["cpu, bfloat16, sdpa"]


def test_files_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    foreign, gone = tmp_path / "a.txt", tmp_path / "gone" / "a.json"
    foreign.write_text("precious")
    for outputs, message in (
        (Outputs(compare=foreign), "was not written by vllava"),
        (Outputs(save=gone), "can't be written: no such file or directory"),
        (Outputs(plot=gone.with_suffix(".png")), "can't be written: no such file or directory"),
        (Outputs(save=tmp_path), "is a folder"),
    ):
        tools = FakeInstruments()
        with pytest.raises(OutputError, match=message):
            done(replace(BENCH, outputs=outputs), tools)
        assert tools.calls == []
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_two_runs_do_not_save_to_one_file(tmp_path: Path) -> None:
    part = Part.begin(tmp_path / "a.json")
    with pytest.raises(LockedError):
        done(replace(BENCH, outputs=Outputs(save=tmp_path / "a.json")))
    part.end()


def test_a_chart_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    assert done(replace(BENCH, outputs=Outputs(plot=path))).code == 0
    assert Image.open(path).size[0] == 1200


def test_ctrl_c_shows_and_saves_what_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    tools = FakeInstruments(is_cut_after=1)
    found = done(replace(BENCH, configurations=(Configuration(), BF16), outputs=Outputs(save=path)), tools)
    assert found.code == 130
    assert found.out.splitlines()[-2:] == [
        "prefill  tokens/s                  12,346                  10,000           1.2x  20,000       62%",
        "device  250 GFLOP/s in a large product, 12.0 GB/s in a large copy.",
    ]
    (trial,) = read(path).trials
    assert [line.name for line in trial.lines] == ["load", "frames", "prefill"]
    assert tools.calls.count("contest 1") == 0


def test_ctrl_c_at_the_end_of_a_configuration_begins_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    tools = FakeInstruments(is_cut_after=len(LINES) - 1)
    bench = replace(BENCH, configurations=(Configuration(), BF16), is_checked=True, outputs=Outputs(save=path))
    assert done(bench, tools) == Done(130, HEAD + TABLE, DEMO)
    assert tools.calls[3:] == ["plan None None", "contest 0", "free cpu"]
    assert len(read(path).trials) == 1


def test_ctrl_c_while_frames_are_measured_ends_quietly(tmp_path: Path) -> None:
    class Cut(FakeInstruments):
        def frames_line(self, *_: object, **__: object) -> Line:
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the first Ctrl-C ends what has no figures yet")

        reading = frames_line  # type: ignore[assignment]

    for is_alone in (False, True):
        bench = replace(BENCH, is_frames_only=is_alone, outputs=Outputs(save=tmp_path / "a.json"))
        assert done(bench, Cut()).code == 130
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_before_the_first_figure_leaves_an_earlier_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("precious")
    found = done(replace(BENCH, outputs=Outputs(save=path)), FakeInstruments(is_cut_after=-1))
    assert found.code == 130
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("a.json", "precious")]


def test_frames_alone_need_no_model(tmp_path: Path) -> None:
    bench = replace(BENCH, is_frames_only=True, outputs=Outputs(save=tmp_path / "a.json"))
    tools = FakeInstruments()
    found = done(bench, tools)
    assert (found.code, found.err, tools.calls) == (0, "", ["frames /clips/a.mp4"])
    assert found.out == (
        "clip   a.mp4, 64x48, 24 frames\n"
        "shown  median of 3 (least-most)\n"
        "\n"
        "                           vllava                 snippet  times as fast   limit  of limit\n"
        "frames  s  0.0205 (0.0200-0.0210)  0.0550 (0.0500-0.0600)           2.7x  0.0100       49%\n"
        "met     An hour in a second.\n"
        "missed  Two.\n"
    )
    assert read(tmp_path / "a.json").reading == READING
    assert done(replace(bench, is_checked=True)).code == 1
