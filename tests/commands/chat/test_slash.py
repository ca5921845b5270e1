"""What a line of the chat means."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vllava_cli
from vllava_cli.commands.chat.slash import (
    COMMANDS,
    Add,
    Bye,
    Clear,
    Edit,
    Entry,
    Export,
    Help,
    Load,
    Open,
    Question,
    Retry,
    Save,
    Set,
    Show,
    ShowFrames,
    Undo,
    help_rows,
    parse,
)
from vllava_cli.errors import UsageError
from vllava_cli.nouns import Framing

A, B = Path("a.mp4"), Path("b.mp4")
WHOLE = Framing()
ENTRIES: list[tuple[str, Entry]] = [
    ("Why?", Question(text="Why?")),
    ("  Why?\n", Question(text="Why?")),
    ("a\nb", Question(text="a\nb")),
    (" /etc in the picture?", Question(text="/etc in the picture?")),
    ("/7 or /8?", Question(text="/7 or /8?")),
    ("/ what?", Question(text="/ what?")),
    ("a.mp4", Question(text="a.mp4")),
    ("/open a.mp4", Open(paths=(A,), framing=WHOLE)),
    ("/open a.mp4 b.mp4  ", Open(paths=(A, B), framing=WHOLE)),
    ("/open --start 1:20 --end 1:30 a.mp4", Open(paths=(A,), framing=Framing(start_s=80.0, end_s=90.0))),
    ("/open a.mp4 --start=5", Open(paths=(A,), framing=Framing(start_s=5.0))),
    ("/open --start 5 a.mp4 --start 6", Open(paths=(A,), framing=Framing(start_s=6.0))),
    ("/open -- --a.mp4", Open(paths=(Path("--a.mp4"),), framing=WHOLE)),
    ("/open -a.mp4", Open(paths=(Path("-a.mp4"),), framing=WHOLE)),
    ("/open 'my clip.mp4' it\\'s.mp4", Open(paths=(Path("my clip.mp4"), Path("it's.mp4")), framing=WHOLE)),
    ("/open ~/a.mp4", Open(paths=(Path.home() / "a.mp4",), framing=WHOLE)),
    ("/open '~/a.mp4'", Open(paths=(Path("~/a.mp4"),), framing=WHOLE)),
    ("/add --at 1,2.5 a.mp4", Add(paths=(A,), framing=Framing(at_s=(1.0, 2.5)))),
    ("/add\ta.mp4", Add(paths=(A,), framing=WHOLE)),
    ("/frames", ShowFrames()),
    ("/frames --show", ShowFrames(is_drawn=True)),
    ("/frames 'my sheets/'", ShowFrames(path=Path("my sheets"), is_folder=True)),
    ("/frames sheets/", ShowFrames(path=Path("sheets"), is_folder=True)),
    ("/frames sheet.png --show", ShowFrames(path=Path("sheet.png"), is_drawn=True)),
    ("/retry", Retry()),
    ("/retry --temperature 0.7", Retry(changes=(("temperature", "0.7"),))),
    ("/retry --top_p=0.9 --seed none", Retry(changes=(("top-p", "0.9"), ("seed", "none")))),
    ("/undo", Undo()),
    ("/edit 2", Edit(number=2)),
    ("/edit 2 new  words 'as they are", Edit(number=2, question="new  words 'as they are")),
    ("/edit 12 a\nb", Edit(number=12, question="a\nb")),
    ("/set", Set()),
    ("/set temperature 0.7", Set(name="temperature", value="0.7")),
    ("/set top_p 1", Set(name="top-p", value="1")),
    ("/set verbose on", Set(name="verbose", value="on")),
    ("/set choices yes,no", Set(name="choices", value="yes,no")),
    ("/set Choices moves left, moves right", Set(name="choices", value="moves left, moves right")),
    ("/retry --choices yes,no --calibrate on", Retry(changes=(("choices", "yes,no"), ("calibrate", "on")))),
    ("/show", Show()),
    ("/save talk.json", Save(path=Path("talk.json"))),
    ("/save --force 'my talk.json'", Save(path=Path("my talk.json"), is_overwriting=True)),
    ("/load talk.json", Load(path=Path("talk.json"))),
    ("/export talk.md", Export(path=Path("talk.md"))),
    ("/export talk.md --overwrite", Export(path=Path("talk.md"), is_overwriting=True)),
    ("/clear", Clear()),
    ("/help", Help()),
    ("/help retry", Help(topic="retry")),
    ("/help /retry", Help(topic="retry")),
    ("/? open", Help(topic="open")),
    ("/?", Help()),
    ("/bye", Bye()),
    ("/bye ", Bye()),
    ("/exit", Bye()),
    ("/quit", Bye()),
    ("/q", Bye()),
    ("quit", Bye()),
    ("Exit ", Bye()),
    (" quit", Question(text="quit")),
    ("exit where?", Question(text="exit where?")),
]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("line", "entry"), ENTRIES)
def test_entries(line: str, entry: Entry) -> None:
    assert parse(line) == entry


OPEN = "/open [--start TIME] [--end TIME] [--at TIMES] PATH..."
REFUSED = [
    ("", "The question is empty: type one, or /help."),
    (" \n ", "The question is empty: type one, or /help."),
    ("/frmaes", "There is no /frmaes. Did you mean /frames? /help lists the commands."),
    ("/fr", "There is no /fr. Did you mean /frames? /help lists the commands."),
    ("/s", "There is no /s. Did you mean /set, /show or /save? /help lists the commands."),
    ("/OPEN a.mp4", "There is no /OPEN. Did you mean /open? /help lists the commands."),
    ("/xyzzy", "There is no /xyzzy. /help lists the commands."),
    ("/", "There is no /. /help lists the commands."),
    ("/" + "x" * 99, f"There is no /{'x' * 40}. /help lists the commands."),
    ("/no/such/file.mp4", "There is no /no/such/file.mp4. /help lists the commands."),
    ("/open", f"No file was named: {OPEN}"),
    ("/open ''", f"No file was named: {OPEN}"),
    ("/open 'a.mp4", f"The quote in 'a.mp4 isn't closed: {OPEN}"),
    ("/open --strat 5 a.mp4", f"There is no --strat here: {OPEN}"),
    ("/open a.mp4 --start", f"--start wants a value: {OPEN}"),
    ("/open a.mp4\nWhy?", f"A command is one line of text: {OPEN}"),
    ("/open a\0.mp4", f"A command is one line of text: {OPEN}"),
    ("/open --start noon a.mp4", "'noon' is not a time: give seconds (90.5) or h:m:s (0:01:30.5)."),
    ("/open --at 1 --end 2 a.mp4", "--at names the frames itself. Leave --start and --end out."),
    (
        "/add --at 1,2,3,4,5,6,7,8,9 a.mp4",
        "--at names 9 times, more than the 8 that can be shown. Name fewer.",
    ),
    ("/frames a.png b.png", 'Name one file, in "quotes" if it has spaces, not 2: /frames [--show] [FILE].'),
    ("/frames --show=1", "There is no --show=1 here: /frames [--show] [FILE]."),
    ("/retry 0.7", "0.7 is too much here: /retry [--temperature X] [--top-p X] ..."),
    ("/retry --temperature", "--temperature wants a value: /retry [--temperature X] [--top-p X] ..."),
    ("/retry --verbose on", "There is no --verbose here: /retry [--temperature X] [--top-p X] ..."),
    ("/retry --temperature hot", "temperature can't be hot: give a number from 0 to 100."),
    ("/undo 2", "2 is too much here: /undo."),
    ("/edit", "No question was named: /edit N [QUESTION]."),
    ("/edit two", "A question has a number from 1: /edit N [QUESTION]."),
    ("/edit 0 a", "A question has a number from 1: /edit N [QUESTION]."),
    ("/edit 2a", "A question has a number from 1: /edit N [QUESTION]."),
    ("/set temperature", "temperature wants a value: /set [NAME VALUE]."),
    ("/set temprature 1", "There is no setting temprature. Did you mean temperature? /set lists them."),
    ("/set temperature 1 2", "2 is too much here: /set [NAME VALUE]."),
    ("/set top-p 2", "top-p can't be 2: give a number from 0 to 1."),
    ("/save", "No file was named: /save [--overwrite] FILE."),
    ("/save my talk.json", 'Name one file, in "quotes" if it has spaces, not 2: /save [--overwrite] FILE.'),
    ("/load --force a.json", "There is no --force here: /load FILE."),
    ("/help frmaes", "There is no /frmaes. Did you mean /frames? /help lists the commands."),
    ("/bye now", "now is too much here: /bye."),
    ("/quit now", "now is too much here: /bye."),
]


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_refusals_are_one_sentence(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line)
    assert str(caught.value) == message


def test_a_file_with_spaces_needs_no_quotes(tmp_path: Path) -> None:
    for name in ("my clip.mp4", "it's.mp4", "a -- b.mp4"):
        (tmp_path / name).touch()
        assert parse(f"/open {name}") == Open(paths=(Path(name),), framing=WHOLE)
        assert parse(f"/load {tmp_path}/{name}") == Load(path=tmp_path / name)
    assert parse("/open --start 5 my clip.mp4") == Open(paths=(Path("my clip.mp4"),), framing=Framing(start_s=5.0))


def test_words_that_are_files_each_stay_apart(tmp_path: Path) -> None:
    for name in ("my", "clip.mp4", "my clip.mp4"):
        (tmp_path / name).touch()
    assert parse("/open my clip.mp4") == Open(paths=(Path("my"), Path("clip.mp4")), framing=WHOLE)


def test_a_file_in_the_home_needs_no_quotes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my clip.mp4").touch()
    assert parse("/open ~/my clip.mp4") == Open(paths=(tmp_path / "my clip.mp4",), framing=WHOLE)


def test_stdin_is_no_clip_here() -> None:
    assert parse("/open -") == Open(paths=(Path.cwd() / "-",), framing=WHOLE)


@pytest.mark.parametrize("name", ["clip", "my clip.mp4", "it's.mp4"])
def test_a_file_dropped_onto_the_prompt_is_told_from_a_question(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.touch()
    quoted = "'" + str(path).replace("'", r"'\''") + "'"
    escaped = str(path).replace(" ", r"\ ").replace("'", r"\'")
    for line in {str(path), quoted, escaped, f"{quoted} ", f"{quoted} {quoted}"}:
        with pytest.raises(UsageError) as caught:
            parse(line)
        text = line.strip()
        assert str(caught.value) == (
            f"A file is no question: /open {text} begins anew with it, /add {text} goes with the next one."
        )
        opened = parse(f"/open {text}")
        assert isinstance(opened, Open)
        assert set(opened.paths) == {path}
        assert parse(f" {line}") == Question(text=text)


def test_only_media_are_told_from_questions_by_a_relative_name(tmp_path: Path) -> None:
    for name in ("dog", "a.mp4"):
        (tmp_path / name).touch()
    assert parse("dog") == Question(text="dog")
    with pytest.raises(UsageError, match=r"^A file is no question: /open a\.mp4 "):
        parse("a.mp4")


def test_a_question_longer_than_a_file_name_is_a_question() -> None:
    text = "/7" + "x" * 100_000
    assert parse(text) == Question(text=text)


def test_every_command_is_understood_and_explained() -> None:
    rows = help_rows()
    for command in COMMANDS:
        assert (command.listed, command.help) in rows
        assert parse(f"/help {command.name}") == Help(topic=command.name)
        assert help_rows(command.name)[0] == (command.usage, command.help)
        try:
            parse(f"/{command.name}")
        except UsageError as exc:
            assert command.usage in str(exc)
    assert [name for name, _ in rows[len(COMMANDS) :]] == [
        '"""',
        "Alt-Enter",
        "Tab",
        "Ctrl-C",
        "Ctrl-D",
        "a leading space",
    ]


def test_help_of_one_command_has_its_options_and_settings() -> None:
    assert help_rows("/save") == [
        ("/save [--overwrite] FILE", "Keep the conversation in a file that /load reads, for you alone."),
        ("--overwrite", "Replace a file that is already there."),
    ]
    assert [name for name, _ in help_rows("set")] == [
        "/set [NAME VALUE]",
        *("temperature", "top-p", "seed", "max-new-tokens", "guard", "choices", "calibrate", "verbose"),
    ]
    with pytest.raises(UsageError, match=r"^There is no /sav\. Did you mean /save\? /help lists the commands\.$"):
        help_rows("sav")


def test_nothing_of_a_terminal_is_imported_to_parse() -> None:
    names = ("slash", "settings", "complete")
    imports = "; ".join(f"import vllava_cli.commands.chat.{name}" for name in names)
    look = 'import sys; print([name for name in ("prompt_toolkit", "torch", "rich", "typer") if name in sys.modules])'
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}; {look}"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(Path(vllava_cli.__file__).parents[1])},
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
