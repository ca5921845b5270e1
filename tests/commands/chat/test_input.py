"""Entries as they are typed, pasted and piped."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from tests.commands.turns import Piped, Terminal
from tests.refusals import refused
from vllava_cli.commands.chat.input import PlainLines, TerminalLines, lines_for
from vllava_cli.errors import UsageError


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as pipe:
        yield pipe


def typed(keys: PipeInput, text: str, **settings: object) -> TerminalLines:
    keys.send_text(text)
    return TerminalLines(input=keys, output=DummyOutput(), **settings)  # type: ignore[arg-type]


def entries(lines: TerminalLines | PlainLines) -> list[str]:
    found = []
    while (entry := lines.read(left="9 tokens left")) is not None:
        found.append(entry)
    return found


END = "\x04"
TYPED = {
    "questions": ("Why?\rWhat?\r", ["Why?", "What?"]),
    "blank lines": ("\r  \rWhy?\r", ["Why?"]),
    "a leading space": (" /etc?  \r", [" /etc?"]),
    "Ctrl-C clears the line": ("Why?\x03What?\r", ["What?"]),
    "Alt-Enter": ("a\x1b\rb\r", ["a\nb"]),
    "a paste as terminals send it": ("\x1b[200~a\r\nb\rc\r\x1b[201~\r", ["a\nb\nc"]),
    "a paste is not sent": ("\x1b[200~a\n\x1b[201~b\r", ["a\nb"]),
    "a block": ('"""a\rb"""\r', ["a\nb"]),
    "a block with blank lines": ('"""\ra\r\r  b\r"""\r', ["a\n\n  b"]),
    "a pasted block": ('\x1b[200~"""a\nb"""\x1b[201~\r', ["a\nb"]),
    "a block is a question": ('"""/bye"""\r', [" /bye"]),
    "quotes in a line": ('What does """ mean?\r', ['What does """ mean?']),
}


@pytest.mark.parametrize("name", TYPED)
def test_typed_entries(name: str, keys: PipeInput) -> None:
    text, expected = TYPED[name]
    assert entries(typed(keys, text + END)) == expected


def test_the_end_of_the_terminal_is_the_end(keys: PipeInput) -> None:
    lines = typed(keys, "Why?\r")
    assert lines.read(left="") == "Why?"
    keys.close()
    assert lines.read(left="") is None


@pytest.mark.parametrize("text", ["\x03", "\x15\r"])
def test_an_edit_can_be_given_up(text: str, keys: PipeInput) -> None:
    lines = typed(keys, text)
    assert lines.read(left="", default="Why?") == ""
    keys.send_text("What?\r")
    assert lines.read(left="") == "What?"


def test_up_finds_what_was_typed_before(keys: PipeInput, tmp_path: Path) -> None:
    path = tmp_path / "state" / "history"
    assert entries(typed(keys, 'Why?\rWhat?\rWhat?\r"""a\rb"""\r' + END, history_path=path)) == [
        *("Why?", "What?", "What?", "a\nb")
    ]
    assert [line for line in path.read_text().splitlines() if line.startswith("+")] == [
        *("+Why?", "+What?", '+"""a', '+b"""')
    ]
    with create_pipe_input() as others:
        again = TerminalLines(history_path=path, input=others, output=DummyOutput())
        keep_pressing(again, others, UP)
        assert again.read(left="") == "a\nb"


UP = "\x1b[A"


def keep_pressing(lines: TerminalLines, keys: PipeInput, key: str) -> None:
    """Presses it, however late the history comes, until there is a text; then Enter."""
    buffer = lines._session.default_buffer
    buffer.on_text_changed += lambda _: keys.send_text("\r")
    lines._session.app.after_render += lambda _: None if buffer.text else keys.send_text(key)


def test_the_history_is_private(keys: PipeInput, tmp_path: Path) -> None:
    path = tmp_path / "state" / "history"
    before = os.umask(0)
    try:
        lines = typed(keys, "Why?\r" + END, history_path=path)
        path.chmod(0o644)
        TerminalLines(history_path=path, input=keys, output=DummyOutput())
    finally:
        os.umask(before)
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)
    path.unlink()
    assert entries(lines) == ["Why?"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.unlink()
    path.parent.rmdir()  # a history that can't be written any more stops nothing
    lines._session.history.append_string("What?")
    assert lines._session.history.get_strings()[-1] == "What?"


FAULTS = {
    "file/history": "{path.parent}: File exists.",
    "fifo": "{path}: it is not a file.",
    "folder": "{path}: Is a directory.",
    "long": "{path}: it is larger than 16 MiB: delete it, or cut it.",
}


@pytest.mark.parametrize("name", FAULTS)
def test_without_a_file_the_history_is_of_this_run(name: str, keys: PipeInput, tmp_path: Path) -> None:
    path = tmp_path / name
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "long").touch()
    os.truncate(tmp_path / "long", (16 << 20) + 1)
    lines = typed(keys, "Why?\r", history_path=path)
    assert lines.history_fault == f"What you type isn't kept: {FAULTS[name].format(path=path)}"
    assert lines.read(left="") == "Why?"
    keep_pressing(lines, keys, UP)
    assert lines.read(left="") == "Why?"


PIPED = {
    "questions": (b"Q1\nQ2\n", ["Q1", "Q2"]),
    "a last line without an end": (b"Q1\nQ2", ["Q1", "Q2"]),
    "blank lines": (b"\n  \nQ1\n\n", ["Q1"]),
    "nothing": (b"", []),
    "lines of Windows": (b'Q1\r\n"""a\r\nb"""\r\n', ["Q1", "a\nb"]),
    "bytes that are no text": (b"Q\xff\n", ["Q�"]),
    "a block": (b'"""a\n\nb"""\nQ2\n', ["a\n\nb", "Q2"]),
    "a block is a question": (b'"""\n/bye\n"""\n/bye', [" /bye", "/bye"]),
    "quotes in a line": (b'What does """ mean?\nQ2\n', ['What does """ mean?', "Q2"]),
}


@pytest.mark.parametrize("name", PIPED)
def test_piped_entries(name: str) -> None:
    data, expected = PIPED[name]
    assert entries(PlainLines(Piped(data), Terminal())) == expected


def test_a_block_without_an_end_is_refused() -> None:
    lines = PlainLines(Piped(b'Q1\n"""a\nb'), None)
    assert lines.read() == "Q1"
    assert refused(UsageError, lines.read) == 'The question that begins with """ has no end: close it with """.'
    assert lines.read() is None


@pytest.mark.parametrize(
    "data", [b"x" * (1 << 20) + b"xyz\n", b'"""' + (b"x" * 9999 + b"\n") * 110, "é".encode() * (1 << 20) + b"\nQ2\n"]
)
def test_an_entry_that_is_too_long_is_refused_and_no_more_is_read_of_it(data: bytes) -> None:
    stdin = Piped(data)
    lines = PlainLines(stdin, None)
    with pytest.raises(UsageError) as caught:
        lines.read()
    told = "A question on stdin is longer than 1 MiB: give a shorter one. The rest of the input is ignored."
    assert str(caught.value) == told
    assert (stdin.buffer.tell(), lines.read()) == ((1 << 20) + 1, None)


def test_no_more_is_read_than_one_entry() -> None:
    read, write = os.pipe()
    with os.fdopen(read, encoding="utf-8") as stdin, os.fdopen(write, "wb", buffering=0) as other:
        lines = PlainLines(stdin, None)
        other.write(b"Q1\n")
        assert lines.read() == "Q1"
        other.write(b"Q2\n")
        assert lines.read() == "Q2"


def test_plain_lines_prompt_a_person_only() -> None:
    for stdin, prompt_to, shown in (
        (Terminal(b'Q1\n"""a\nb"""\n'), Terminal(), "> > … > "),
        (Piped(b"Q1\n"), Terminal(), ""),
        (Terminal(b"Q1\n"), Piped(), ""),
    ):
        lines = PlainLines(stdin, prompt_to)
        entries(lines)
        assert (written(prompt_to), lines.has_prompt) == (shown, shown != "")


def written(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.buffer.read().decode()


class Interrupted(io.BytesIO):
    """Bytes that Ctrl-C comes before."""

    is_done = False

    def readline(self, size: int | None = -1, /) -> bytes:
        if not self.is_done:
            self.is_done = True
            raise KeyboardInterrupt
        return super().readline(size)


def test_ctrl_c_stops_a_script_but_not_a_person() -> None:
    with pytest.raises(KeyboardInterrupt):
        PlainLines(Piped(Interrupted(b"Q1\n")), None).read()
    prompt_to = Terminal()
    assert PlainLines(Terminal(Interrupted(b"Q1\n")), prompt_to).read() == "Q1"
    assert written(prompt_to) == "> \n> "


@pytest.mark.parametrize(
    ("stdin", "stdout", "term"),
    [(Piped, Piped, "xterm"), (Terminal, Piped, "xterm"), (Piped, Terminal, "xterm"), (Terminal, Terminal, "dumb")],
)
def test_only_two_terminals_that_move_a_cursor_get_an_editor(
    stdin: type[Piped], stdout: type[Piped], term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    assert isinstance(lines_for(stdin(), stdout()), PlainLines)


def test_a_closed_stdin_has_no_lines() -> None:
    assert lines_for(None, Terminal()).read(left="") is None
