"""What the command line says of itself: usage lines, help at any width, completion, usage errors."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from typing import Any

import pytest
import typer

from vllava_cli.cli import app
from vllava_cli.usage import UsageFault, fault_sentence, summary

ROOT: Any = typer.main.get_command(app)
USAGES = {
    "": "Usage: vllava [OPTIONS] COMMAND [ARGS]...",
    "ask": "Usage: vllava ask [OPTIONS] CLIP... [QUESTION]",
    "batch": "Usage: vllava batch [OPTIONS] [QUESTION] [PATH]...",
    "merge": "Usage: vllava merge [OPTIONS] OUT SHARD...",
    "demo": "Usage: vllava demo [OPTIONS]",
}


def context(name: str, columns: int = 80) -> Any:
    """Of a command, with the settings of the whole command line."""
    root = typer.Context(ROOT, info_name="vllava", terminal_width=columns - 2, **ROOT.context_settings)
    return typer.Context(ROOT.commands[name], info_name=name, parent=root) if name else root


def help_of(name: str, columns: int) -> list[str]:
    found = context(name, columns)
    return str(found.command.get_help(found)).splitlines()


def fault(words: str) -> str:
    """The sentence that a command line without sense is refused with."""
    with pytest.raises(UsageFault) as caught:
        app(args=words.split(), prog_name="vllava", standalone_mode=False)
    return fault_sentence(caught.value)


@pytest.mark.parametrize("name", USAGES)
def test_help_begins_with_the_usage_line_and_the_summary(name: str) -> None:
    command = ROOT.commands[name] if name else ROOT
    assert help_of(name, 80)[:3] == [USAGES[name], "", f"  {summary(command)}."]


@pytest.mark.parametrize("columns", [60, 80, 100])
@pytest.mark.parametrize("name", ["", *ROOT.commands])
def test_help_shows_no_types_and_has_room(name: str, columns: int) -> None:
    lines = help_of(name, columns)
    shown = [line for line in lines if re.search(r"[<{]|\[\[|\]\]|list\[|[a-z]\.\.\.( |$)", line)]
    assert shown == []
    assert [line for line in lines if len(line) > columns] == []


@pytest.mark.parametrize("name", ROOT.commands)
def test_summaries_are_short_enough_for_every_list(name: str) -> None:
    text = summary(ROOT.commands[name])
    assert 0 < len(text) < 60
    assert " ".join(" ".join(help_of("", 60)).split()).count(f"{name} {text}") == 1


@pytest.mark.parametrize(
    ("words", "sentence"),
    {
        "ask a.mp4 Why --precision int8": "--precision: 'int8' is not one of auto, fp16, bf16, fp32, 8bit, 4bit.",
        "ask a.mp4 Why --fit wide": "--fit: 'wide' is not one of crop, pad, squash.",
        "ask a.mp4 Why --start noon": "--start: 'noon' is not a time: give seconds (90.5) or h:m:s (0:01:30.5).",
        "ask a.mp4 Why --at 1,noon": "--at: 'noon' is not a time: give seconds (90.5) or h:m:s (0:01:30.5).",
        "ask a.mp4 Why --decode-timeout 0": "--decode-timeout: '0' is not above 0: give seconds (90.5) or h:m:s "
        "(0:01:30.5).",
        "ask a.mp4 Why --decode-memory 0": "--decode-memory: '0' is not a size: give bytes with K, M or G (512M, 4G).",
        "ask a.mp4 Why --max-new-tokens 0": "--max-new-tokens: '0' is not a whole number from 1 on.",
        "ask a.mp4 Why --seed 1.5": "--seed: '1.5' is not a whole number from 0 to 9223372036854775807.",
        "ask a.mp4 Why --temperature nan": "--temperature: 'nan' is not a number from 0 to 100.",
        "ask a.mp4 Why --top-p 1.5": "--top-p: '1.5' is not a number from 0 to 1.",
        "batch Why a.mp4 --gpus-per-actor inf": "--gpus-per-actor: 'inf' is not a number from 0 on.",
        "bench --attention flash,": "--attention: '' is not one of auto, flash, sdpa, eager.",
        "bench --precision fp16,3bit": "--precision: '3bit' is not one of auto, fp16, bf16, fp32, 8bit, 4bit.",
        "bench --batch-size 1,0": "--batch-size: '0' is not a whole number from 1 to 9999.",
        "ask --model": "Option '--model' requires an argument. vllava ask -h shows the help.",
        "ask --model demo": "CLIP... [QUESTION] is missing. Usage: vllava ask [OPTIONS] CLIP... [QUESTION]",
        "doctor --json=3": "Option '--json' does not take a value. vllava doctor -h shows the help.",
        "doctor now": "Got unexpected extra argument(s) (now). vllava doctor -h shows the help.",
        "doctor --nothing": "No such option: --nothing. vllava doctor -h shows the help.",
        "--nothing": "No such option: --nothing. vllava -h shows the help.",
        "batchs": "No such command 'batchs'. Did you mean 'batch'? vllava -h shows the help.",
    }.items(),
)
def test_each_kind_of_bad_value_is_a_sentence(words: str, sentence: str) -> None:
    assert fault(words) == sentence


def test_options_are_taken_by_the_names_that_they_had() -> None:
    for words, option, value in (
        (["frames", "a.mp4", "--force"], "overwrite", True),
        (["merge", "--force", "all.jsonl", "a.jsonl"], "overwrite", True),
        (["bench", "--batch=1,4"], "batch_size", (1, 4)),
        (["bench", "--batch", "1,4"], "batch_size", (1, 4)),
        (["bench", "--precision", "8bit, fp16,8bit"], "precision", ("8bit", "fp16")),
    ):
        name, *rest = words
        made = ROOT.commands[name].make_context(name, rest)
        assert made.params[option] == value
    assert "--force" not in "".join(help_of("frames", 80))
    assert ROOT.commands["ask"].make_context("ask", ["--", "--force"]).params["words"] == ("--force",)


@pytest.mark.parametrize(
    ("line", "value", "words"),
    [
        ("batch Why? a.mp4 --ray", "local", "Why? a.mp4"),
        ("batch --ray Why? a.mp4", "local", "Why? a.mp4"),
        ("batch --ray -o out", "local", ""),
        ("batch --ray ray://head:10001 Why?", "ray://head:10001", "Why?"),
        ("batch --ray [fd00::7]:6379 Why?", "[fd00::7]:6379", "Why?"),
        ("batch --ray auto Why?", "auto", "Why?"),
        ("batch --ray s3://bucket/a.mp4", "local", "s3://bucket/a.mp4"),
        ("batch --ray automatic", "local", "automatic"),
        ("batch -- --ray", None, "--ray"),
        ("batch --ray -- auto", "local", "auto"),
        ("chat", None, ""),
        ("chat -c", "last", ""),
        ("chat --continue a.mp4", "last", "a.mp4"),
        ("chat -c --model demo", "last", ""),
        ("chat --continue 2026-11-22T19-40-05Z_2 a.mp4", "2026-11-22T19-40-05Z_2", "a.mp4"),
        ("chat -c 2026-11-22.mp4", "last", "2026-11-22.mp4"),
        ("chat --continue=anything", "anything", ""),
        ("ask -- -c", None, "-c"),
    ],
)
def test_an_option_may_stand_without_its_value_and_takes_nothing_else_for_it(
    line: str, value: str | None, words: str
) -> None:
    name, *rest = line.split()
    found = ROOT.commands[name].make_context(name, rest).params
    assert (found.get("ray") or found.get("continue_")) == value
    assert list(found.get("words") or found.get("clips") or ()) == words.split()


APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"
ZSH = r"""
_arguments() { local rows=${${1#*\(\(}%%\)\)}; eval "offered=( $rows )"; print -rl -- $offered }
eval $(%s)
"""


@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
@pytest.mark.parametrize("name", ["ask", "batch"])
def test_zsh_shows_the_help_of_each_option_whole(name: str) -> None:
    command = (
        f"env _TYPER_COMPLETE_ARGS='vllava {name} --' _VLLAVA_COMPLETE=complete_zsh "
        f"{sys.executable} -c 'from vllava_cli.cli import main; main()'"
    )
    done = subprocess.run(["zsh", "-fc", ZSH % command], capture_output=True, text=True)
    assert done.stderr == ""
    shown = done.stdout.replace("\\:", ":")
    for parameter in ROOT.commands[name].params:
        if parameter.opts[0].startswith("--"):
            assert f"{parameter.opts[0]}:{parameter.help}".replace("'", APOSTROPHE) in shown


@pytest.mark.parametrize(
    ("words", "offered"),
    {
        "bench --precision fp16,b": ["fp16,bf16"],
        "batch --allow s3,l": ["s3,loopback", "s3,link-local"],
        "batch --fields id,path,an": ["id,path,answer"],
        "batch --format ": ["jsonl", "csv", "tsv", "srt", "vtt", "ffmeta", "parquet"],
        "batch --choice-style ": ["text", "letter"],
        "export --as m": ["mvbench"],
        "score --gold-as pl": ["place", "place-from-1"],
        "report --gold-as ": ["auto", "text", "letter", "place", "place-from-1"],
        "ask --model d": ["demo"],
        "ask --model ./d": [],
    }.items(),
)
def test_values_and_lists_of_them_are_completed(words: str, offered: list[str]) -> None:
    name, option, incomplete = words.split(" ")
    parameter = next(each for each in ROOT.commands[name].params if option in each.opts)
    assert [item.value for item in parameter.shell_complete(context(name), incomplete)] == offered
