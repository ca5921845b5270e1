"""As much of a terminal's screen as the chat uses: text that wraps, and the few movements of the cursor."""

from __future__ import annotations

import re
from collections.abc import Callable

_PIECE = re.compile(
    r"\x1b\[(?P<private>[?>=]?)(?P<numbers>[0-9;]*)(?P<final>[@-~])|\x1b[=>]|\x1b\][^\x07]*\x07|(?P<text>[^\x1b])"
)
_UNFINISHED = re.compile(r"\x1b(\[[?>=]?[0-9;]*|\][^\x07]*)?\Z")


class Display:
    """Takes what a program writes to its terminal; scrolled lines stay in `lines`. No colours, no wide characters."""

    def __init__(self, *, columns: int, answer: Callable[[str], None], height: int = 24) -> None:
        """`answer` gets what a terminal says by itself: where the cursor is."""
        self.columns = columns
        self.modes = {"7", "25"}
        """What is switched on: 7 wraps lines, 25 shows the cursor, 2004 marks what is pasted."""
        self._height = height
        self._answer = answer
        self._rows: list[list[str]] = [[]]
        self._row = self._column = 0
        self._rest = ""

    @property
    def lines(self) -> list[str]:
        """All lines from the first to the last with text in it, without spaces at their ends."""
        lines = ["".join(row).rstrip() for row in self._rows]
        return lines[: max((number for number, line in enumerate(lines, 1) if line), default=0)]

    def write(self, data: str) -> None:
        """Shows it; a sequence that is only half there waits for its other half."""
        data = self._rest + data
        unfinished = _UNFINISHED.search(data)
        self._rest = unfinished[0] if unfinished else ""
        for piece in _PIECE.finditer(data.removesuffix(self._rest)):
            if piece["final"]:
                self._act(piece["private"] + piece["final"], piece["numbers"])
            elif piece["text"]:
                self._put(piece["text"])

    def flush(self) -> None:
        pass

    def _put(self, letter: str) -> None:
        match letter:
            case "\r":
                self._column = 0
            case "\n":
                self._go(self._row + 1, self._column)
            case "\b":
                self._column = max(0, self._column - 1)
            case _ if letter >= " ":
                self._show(letter)

    def _show(self, letter: str) -> None:
        if self._column >= self.columns:
            if "7" in self.modes:
                self._go(self._row + 1, 0)
            self._column = min(self._column, self.columns - 1)
        row = self._rows[self._row]
        row += " " * (self._column + 1 - len(row))
        row[self._column] = letter
        self._column += 1

    def _act(self, name: str, numbers: str) -> None:
        first, _, second = numbers.partition(";")
        count = int(first or 1)
        match name:
            case "A":
                self._go(max(self._top, self._row - count), self._column)
            case "B":
                self._go(self._row + count, self._column)
            case "C":
                self._column = min(self.columns - 1, self._column + count)
            case "D":
                self._column = max(0, self._column - count)
            case "H":
                self._go(self._top + count - 1, int(second or 1) - 1)
            case "J":
                self._clear(is_below=True, is_whole=first == "2")
            case "K":
                self._clear(is_below=False, is_whole=first == "2")
            case "?h":
                self.modes.add(numbers)
            case "?l":
                self.modes.discard(numbers)
            case "n" if first == "6":
                self._answer(f"\x1b[{self._row - self._top + 1};{min(self._column, self.columns - 1) + 1}R")

    @property
    def _top(self) -> int:
        """The first row on the screen."""
        return max(0, len(self._rows) - self._height)

    def _go(self, row: int, column: int) -> None:
        self._rows += [[] for _ in range(row + 1 - len(self._rows))]
        self._row, self._column = row, column

    def _clear(self, *, is_below: bool, is_whole: bool) -> None:
        del self._rows[self._row][0 if is_whole else self._column :]
        if is_below:
            self._rows[self._row + 1 :] = [[] for _ in self._rows[self._row + 1 :]]
