"""What Tab offers, and that the parser understands it."""

from __future__ import annotations

import os
from contextlib import chdir
from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent, Completion
from prompt_toolkit.document import Document

from vllava_cli.commands.chat import input
from vllava_cli.commands.chat.input import META_COLUMNS, ChatCompleter
from vllava_cli.commands.chat.parser import split
from vllava_cli.commands.chat.settings import SETTINGS

QUESTIONS = ("What is this?", "Is it\x1b[31m\na dog? " + "And what else can be seen of it?" * 3)


def completions(line: str, folder: Path = Path()) -> list[Completion]:
    with chdir(folder):
        return list(ChatCompleter(lambda: QUESTIONS).get_completions(Document(line), CompleteEvent()))


def offered(line: str, folder: Path = Path()) -> list[str]:
    """The whole lines that the completions make of it."""
    return [line[: len(line) + each.start_position] + each.text for each in completions(line, folder)]


WORDS = [
    (
        "/",
        [
            *("/open ", "/add ", "/frames ", "/retry ", "/undo", "/edit ", "/set ", "/show", "/save ", "/load "),
            *("/export ", "/clear", "/help ", "/bye", "/quit", "/exit"),
        ],
    ),
    ("/qu", ["/quit"]),
    ("/s", ["/set ", "/show", "/save "]),
    ("/x", []),
    ("", []),
    ("Why /s", []),
    ("Why?\n/s", []),
    ("/xyzzy a", []),
    ("/undo ", []),
    ("/open --e", ["/open --end "]),
    ("/open --start 5 -", ["/open --start 5 --end ", "/open --start 5 --at "]),
    ("/open --start ", []),
    ("/frames -", ["/frames --show"]),
    ("/load --", []),
    ("/retry ", [f"/retry --{name} " for name in SETTINGS if name != "verbose"]),
    ("/retry --t", ["/retry --temperature ", "/retry --top-p "]),
    ("/retry --guard of", ["/retry --guard off"]),
    ("/retry --guard off --g", []),
    ("/set t", ["/set temperature ", "/set top-p "]),
    ("/set verbose ", ["/set verbose on", "/set verbose off"]),
    ("/set top_p 0", ["/set top_p 0.5", "/set top_p 0.9"]),
    ("/set verbose on ", []),
    ("/edit ", ["/edit 2 ", "/edit 1 "]),
    ("/edit 1", ["/edit 1 "]),
    ("/edit 1 Wh", []),
    ("/help re", ["/help retry"]),
]


@pytest.mark.parametrize(("line", "lines"), WORDS)
def test_words(line: str, lines: list[str], tmp_path: Path) -> None:
    assert offered(line, tmp_path) == lines


def test_the_menu_tells_what_each_is() -> None:
    (bye,) = completions("/by")
    assert (bye.display_text, bye.display_meta_text) == (
        "/bye",
        "Leave the chat, like Ctrl-D, or quit or exit alone on a line.",
    )
    second, first = completions("/edit ")
    assert (first.text, first.display_text, first.display_meta_text) == ("1 ", "1", "What is this?")
    assert second.display_meta_text.startswith("Is it[31m a dog? And what") and second.display_meta_text.endswith("…")
    assert len(second.display_meta_text) == META_COLUMNS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    names = ("notes.txt", "B.MP4", "my clip.mp4", 'it\'s "a\\b".mp4', ".hidden.mp4", "~a.mp4", "--a.mp4", "-b.mp4")
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "sub folder").mkdir()
    (tmp_path / "sub folder" / "c.mp4").touch()
    (tmp_path / "link.mp4").symlink_to(tmp_path / "sub folder")
    return tmp_path


MEDIA_FIRST = [
    *("./--a.mp4", "-b.mp4", "B.MP4", r"it\'s\ \"a\\b\".mp4", r"my\ clip.mp4", r"\~a.mp4"),
    *("link.mp4/", r"sub\ folder/", "notes.txt"),
]


def test_media_come_first_then_folders_and_elsewhere_files_come_by_their_names(folder: Path) -> None:
    for command in ("/open", "/add", "/open --start 5", "/open x.mp4"):
        assert offered(f"{command} ", folder) == [f"{command} {name}" for name in MEDIA_FIRST]
    by_name = sorted(MEDIA_FIRST, key=lambda name: name.removeprefix("./").replace("\\", "").casefold())
    for command in ("/load", "/save", "/export", "/frames"):
        assert offered(f"{command} ", folder) == [f"{command} {name}" for name in by_name]


FILES = [
    ("/open my", [r"/open my\ clip.mp4"]),
    ("/open 'my c", [r"/open my\ clip.mp4"]),
    ('/open "my c', [r"/open my\ clip.mp4"]),
    ("/open my c", [r"/open my\ clip.mp4"]),
    ("/open my ", [r"/open my\ clip.mp4", *(f"/open my {name}" for name in MEDIA_FIRST)]),
    ("/open it's", [r"/open it\'s\ \"a\\b\".mp4"]),
    ("/open sub", [r"/open sub\ folder/"]),
    (r"/open sub\ folder/", [r"/open sub\ folder/c.mp4"]),
    ("/open ./sub", [r"/open ./sub\ folder/"]),
    ("/open .h", ["/open .hidden.mp4"]),
    ("/open ./--", ["/open ./--a.mp4"]),
    ("/open no/such/", []),
    ("/open notes.txt/", []),
    ("/open a\0", []),
]


@pytest.mark.parametrize(("line", "lines"), FILES)
def test_files(line: str, lines: list[str], folder: Path) -> None:
    assert offered(line, folder) == lines


def test_the_menu_shows_the_last_part_of_a_path(folder: Path) -> None:
    found = completions(f"/open {folder}/sub")
    assert [each.display_text for each in found] == ["sub folder/"]


def test_a_home_stays_a_tilde(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    assert offered("/open ~") == ["/open ~/"]
    assert offered("/open ~/my") == [r"/open ~/my\ clip.mp4"]
    assert offered("/open ~/my c", folder / "sub folder") == [r"/open ~/my\ clip.mp4", "/open ~/my c.mp4"]
    (line,) = offered("/load ~/~")
    assert Path(split(line)[1].text) == folder / "~a.mp4"


def test_the_parser_understands_every_file_that_is_offered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for start in ("", "./", f"{folder}/"):
        paths: set[Path] = set()
        for line in offered(f"/open {start}", folder):
            _, word = split(line)
            paths.add(Path(word.text).absolute())
        assert paths == {path for path in folder.iterdir() if not path.name.startswith(".")}


def test_names_that_could_steer_the_terminal_are_left_out(tmp_path: Path) -> None:
    for name in ("a\x1b[31m.mp4", "a\n.mp4", "a\t.mp4", "a\u202e.mp4", os.fsdecode(b"a\xff.mp4"), "a\x9b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "añ.mp4").touch()
    assert offered("/open a", tmp_path) == ["/open añ.mp4"]


def test_a_huge_folder_is_looked_at_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        (tmp_path / f"{number}.mp4").touch()
    monkeypatch.setattr(input, "MOST_LISTED", 5)
    assert len(offered("/open ", tmp_path)) == 5
    monkeypatch.setattr(input, "MOST_OFFERED", 3)
    assert len(offered("/open ", tmp_path)) == 3
