"""What reaches stdout and stderr, and what becomes of a full disk and a closed pipe."""

import io
import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.batch.parts import Terminal
from vllava_cli.commands.chat.commands import COMMANDS, help_rows
from vllava_cli.errors import ClosedPipeError, OutputError
from vllava_cli.media.contact_sheet import Sheet
from vllava_cli.screen import Screen, clean


def a_screen(*, is_quiet: bool = False, is_verbose: bool = False) -> tuple[Screen, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Screen(out=out, err=err, is_quiet=is_quiet, is_verbose=is_verbose), out, err


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b[31mred\x1b[0m", "[31mred[0m"),
        ("\x1b]8;;http://x\x07link\x1b]8;;\x07", "]8;;http://xlink]8;;"),
        ("a\rb\x08\x7f\x9bc", "abc"),
        ("left\u202eright\u2066x\u200f", "leftrightx"),
        ("clip\udcff.mp4", "clip?.mp4"),
        ("日本 é 🎬", "日本 é 🎬"),
    ],
)
def test_clean_leaves_no_control_character(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_control_characters_are_kept_from_terminals_and_not_from_files(tmp_path: Path) -> None:
    text, rows = "a\x1b[31m\r\udcff\u202e.mp4,é\n", [("way\x1b[1m", "seek\x9b")]
    screen, piped, _ = a_screen()
    terminal = Terminal()
    for each in (screen, Screen(out=terminal, err=io.StringIO())):
        each.answer(text)
        each.facts(rows, is_answer=True)
    assert piped.getvalue() == f"{text}way\x1b[1m  seek\x9b\n"
    assert terminal.getvalue() == "a[31m?.mp4,é\nway[1m  seek\n"
    with (tmp_path / "file").open("w", encoding="utf-8", newline="") as file:
        Screen(out=file, err=io.StringIO()).answer(text)
    assert (tmp_path / "file").read_bytes() == b"a\x1b[31m\r\xff\xe2\x80\xae.mp4,\xc3\xa9\n"


@pytest.mark.parametrize(("encoding", "written"), [("utf-8", b"?\xc3\xa9\n"), ("ascii", b"??\n")])
def test_what_an_encoding_lacks_is_a_question_mark(encoding: str, written: bytes, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w", encoding=encoding) as file:
        Screen(out=file, err=io.StringIO()).answer("\ud800é\n")
    assert (tmp_path / "file").read_bytes() == written


def test_an_answer_ends_with_one_new_line() -> None:
    screen, out, err = a_screen()
    for piece in ("A ", "dog.", ""):
        screen.answer(piece)
    screen.end_answer()
    screen.end_answer()
    assert (out.getvalue(), err.getvalue()) == ("A dog.\n", "")


def test_notices_go_to_stderr_and_quiet_silences_them() -> None:
    screen, out, err = a_screen(is_verbose=True)
    screen.notice("note")
    screen.detail("why")
    screen.error("fault")
    assert (out.getvalue(), err.getvalue()) == ("", "note\nwhy\nvllava: fault\n")
    screen, out, err = a_screen(is_quiet=True, is_verbose=True)
    screen.notice("note")
    screen.detail("why")
    screen.error("fault")
    assert (out.getvalue(), err.getvalue()) == ("", "vllava: fault\n")


def test_a_name_wider_than_a_third_of_the_terminal_has_a_line_of_its_own() -> None:
    rows = [("/open [--start TIME] PATH...", "Begin a new conversation."), ("--start", "Look from here on.")]
    assert shown_at(40, lambda screen: screen.facts(rows)) == (
        "/open [--start TIME] PATH...\n         Begin a new conversation.\n--start  Look from here on.\n"
    )
    assert shown_at(90, lambda screen: screen.facts(rows)) == (
        "/open [--start TIME] PATH...  Begin a new conversation.\n--start                       Look from here on.\n"
    )


@pytest.mark.parametrize("columns", [60, 80])
def test_the_help_of_a_chat_has_room_for_its_sentences(columns: int) -> None:
    for rows in (help_rows(), *map(help_rows, COMMANDS)):
        for line in shown_at(columns, partial(Screen.facts, rows=rows)).splitlines():
            assert len(line) <= columns
            assert len(line.rpartition("  ")[0]) <= columns // 3, line


def test_a_dumb_terminal_and_a_file_get_no_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    err = Terminal()
    for stream in (err, io.StringIO()):
        screen = Screen(out=io.StringIO(), err=stream)
        with screen.waiting("Loading"), screen.progress(lambda: ["Measuring"], is_shared=False):
            screen.notice("About clip.mp4.")
        assert (screen.is_moving, screen.answer_width) == (False, None)
        assert stream.getvalue() == "About clip.mp4.\n"


def test_without_a_terminal_a_log_says_every_30_seconds_what_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllava_cli.screen.PROGRESS_S", 0.001)
    for is_quiet, wanted in ((False, {"vllava: quantising to 4 bits, once: 9 of 32 layers"}), (True, set())):
        told, err = threading.Event(), io.StringIO()

        def parts(told: threading.Event = told) -> list[str]:
            told.set()
            return ["quantising to 4 bits, once: 9 of 32 layers"]

        with Screen(out=io.StringIO(), err=err, is_quiet=is_quiet).log.progress(parts):
            assert is_quiet or told.wait(60)
        assert set(err.getvalue().splitlines()) == wanted


def test_a_closed_pipe_and_a_full_disk_are_told_apart() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe, pytest.raises(ClosedPipeError):
        Screen(out=pipe, err=io.StringIO()).answer("text")
    full = Path("/dev/full")
    if full.exists():
        with full.open("w") as disk, pytest.raises(OutputError) as caught:
            Screen(out=disk, err=io.StringIO()).answer("text")
        assert str(caught.value) == "The answer can't be written to stdout: No space left on device."


def shown_at(columns: int, tell: Callable[[Screen], object]) -> str:
    """What a terminal of so many columns gets on stderr."""
    import fcntl
    import struct
    import termios

    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with os.fdopen(theirs, "w") as err:
            assert Screen(out=err, err=io.StringIO()).answer_width == columns
            tell(Screen(out=io.StringIO(), err=err))
        return b"".join(iter(lambda: read(terminal), b"")).decode().replace("\r\n", "\n")


def read(terminal: io.FileIO) -> bytes:
    """The next bytes of a terminal, which come in pieces; b"" at their end."""
    try:
        return terminal.read(4000)
    except OSError:  # Linux's way to say that nobody has the other end any more
        return b""


def test_a_notice_breaks_between_words_at_a_terminal_and_not_at_all_in_a_pipe() -> None:
    text = "Saved in /a/path/that/is/longer/than/a/whole/line/of/it.jsonl, now."
    shown = shown_at(40, lambda screen: screen.notice(text))
    assert shown == "Saved in\n/a/path/that/is/longer/than/a/whole/line/of/it.jsonl,\nnow.\n"
    screen, _, piped = a_screen()
    screen.notice("word " * 30)
    assert piped.getvalue().count("\n") == 1


class OldTerminal(Terminal):
    encoding = "ascii"


def test_a_spinner_leaves_the_end_of_its_line_free_for_what_a_terminal_echoes() -> None:
    err = Terminal()
    with Screen(out=io.StringIO(), err=err).progress(lambda: ["Measuring: frames", "1 of 2"], is_shared=False):
        pass
    drawn = [line for line in clean(err.getvalue()).split("\n") if "Measuring" in line]
    assert drawn
    assert all(line.endswith("Measuring: frames · 1 of 2") for line in drawn), drawn


def drawn(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, *, name: str = "a.mp4", red: int = 255, **environment: str
) -> list[str]:
    """One picture, red above, blue below, as it reached the terminal."""
    for variable in ("NO_COLOR", "COLORTERM", "TERM"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    tile = np.empty((1, 2, 160, 3), np.uint8)
    tile[:, 0], tile[:, 1] = (red, 0, 0), (0, 0, 255)
    screen = Screen(out=terminal, err=io.StringIO())
    assert screen.is_terminal
    screen.picture(Sheet(name=name, facts="160x2", tiles=tile, labels=("0:01.00",)))
    return terminal.getvalue().splitlines()


@pytest.mark.parametrize(
    ("environment", "red", "start"),
    [
        ({"TERM": "xterm-256color", "COLORTERM": "truecolor"}, 255, "\x1b[38;2;255;0;0;48;2;0;0;255m▀\x1b[0m"),
        ({"TERM": "xterm"}, 254, "\x1b[38;5;196;48;5;21m▀\x1b[0m"),
    ],
)
def test_a_picture_is_drawn_with_the_colours_that_there_are(
    environment: dict[str, str], red: int, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another red each time, as rich keeps what a style became the first time."""
    assert drawn(Terminal(), monkeypatch, red=red, **environment) == [
        "\x1b[1ma.mp4\x1b[0m",
        "\x1b[2m160x2\x1b[0m",
        start * 80,
        " " * 36 + "0:01.00",
    ]


@pytest.mark.parametrize("environment", [{"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}, {}])
def test_a_picture_without_colours_is_drawn_in_shades(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = drawn(Terminal(), monkeypatch, **environment)
    assert (shown[:2], shown[3]) == (["a.mp4", "160x2"], " " * 36 + "0:01.00")
    assert set(shown[2]) <= set(" ░▒▓█")
    assert set(drawn(OldTerminal(), monkeypatch, **environment)[2]) <= set(" .:-=+*#%@")


def test_a_pictures_name_is_cut_to_the_width_and_controls_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = drawn(Terminal(), monkeypatch, name="\x1b]0;owned\x07\r" + "x" * 100, TERM="dumb")
    assert shown[0] == "]0;owned" + "x" * 71 + "…"
    assert shown[1] == "160x2"
