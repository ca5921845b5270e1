"""Draws the figures of bench as a PNG: a section for each configuration, and in it a group of bars for each figure.

A bar's length is the share of the limit, or of the best tool if no limit is known: a longer bar is always better. For
memory, less is better, and its bar is longer. Pillow draws the picture.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable

from PIL import Image, ImageDraw, ImageFont

from vllava_cli.commands.bench_record import BenchRecord
from vllava_cli.commands.bench_report import number, share, speed, times
from vllava_cli.engine.measuring.figures import Figure, Measured
from vllava_cli.media.contact_sheet import fitted, printable

WIDTH, MARGIN, NAMES, BARS, LINE = 1200, 40, 220, 560, 22
# Okabe and Ito's blue and orange, which differ for all eyes, and a gray for the limit.
COLOURS = {"vllava": (0, 114, 178), "the documentation's snippet": (230, 159, 0), "the limit": (187, 187, 187)}
INK = (34, 34, 34)


def chart_png(record: BenchRecord) -> bytes:
    """Draws a record as a PNG, 1200 pixels wide, and returns its bytes."""
    machine, clip, task = record.machine, record.clip, record.task
    chart = _Chart()
    chart.write(f"vllava bench: {record.model}", size=26)
    for tool, colour in COLOURS.items():
        chart.write(tool, left=chart.bar(MARGIN, 18, colour))
    chart.write("Longer is better: a bar is a share of the limit, or of the best where no limit is known.")
    for trial in record.trials:
        chart.top += LINE
        chart.write(trial.name, size=19)
        for figure in trial.lines:
            chart.add(figure)
        chart.write(f"Measured: {speed(trial.speed)}." if trial.speed else "")
        for line in textwrap.wrap(printable(trial.fault or ""), 130):
            chart.write(line)
    chart.top += LINE
    where = f"{', '.join(machine.gpus) or machine.cpu}; {machine.cores} CPU cores"
    chart.write(f"{where}; {machine.measured_at}; median of {task.repeat}")
    releases = ", ".join(f"{name} {release}" for name, release in machine.versions.items() if release)
    chart.write(f"{clip.path.name}, {clip.width}x{clip.height}; {task.new_tokens} new tokens; {releases}")
    return chart.png()


def bars_of(figure: Figure) -> dict[str, tuple[float, str]]:
    """Returns the length of each tool's bar, from 0 to 1, and the text beside it.

    400 tokens/s where the limit is 500 → {"vllava": (0.8, "400 tokens/s, 80% of the limit"), "the limit": (1.0, …)}
    """
    limit = Measured(values=(figure.limit or 0.0,))
    tools = zip(COLOURS, (figure.ours, figure.snippet, limit), strict=True)
    medians = {tool: each.median for tool, each in tools if each and each.median > 0}
    longest = max(map(figure.goodness, medians.values()), default=1.0)
    texts = {tool: f"{number(median)} {figure.unit}" for tool, median in medians.items()}
    if "vllava" in texts and figure.of_snippet is not None:
        texts["vllava"] += f", {times(figure.of_snippet)} as {'little' if figure.unit == 'MiB' else 'fast'}"
    if "vllava" in texts and figure.of_limit is not None:
        texts["vllava"] += f", {share(figure.of_limit)} of the limit"
    return {tool: (figure.goodness(median) / longest, texts[tool]) for tool, median in medians.items()}


class _Chart:
    """Collects what is to be drawn, from top to bottom; `png` draws it, when the height of the picture is known."""

    def __init__(self) -> None:
        self.top = MARGIN
        self._strokes: list[Callable[[ImageDraw.ImageDraw], object]] = []

    def write(self, text: str, *, left: int = MARGIN, size: int = 15, room: int = WIDTH) -> None:
        font, place = ImageFont.load_default(size), (left, self.top + LINE // 2)
        shown = fitted(printable(text), font, min(room, WIDTH - MARGIN - left))
        self._strokes.append(lambda draw: draw.text(place, shown, fill=INK, font=font, anchor="lm"))
        self.top += max(LINE, size + 8)

    def bar(self, left: int, length: int, colour: tuple[int, int, int]) -> int:
        """Adds a bar and returns the left edge of the text beside it. All numbers are in pixels."""
        box = (left, self.top + 2, left + max(2, length), self.top + LINE - 3)
        self._strokes.append(lambda draw: draw.rectangle(box, fill=colour))
        return box[2] + 10

    def add(self, figure: Figure) -> None:
        top = self.top
        for tool, (length, text) in bars_of(figure).items():
            self.write(text, left=self.bar(MARGIN + NAMES, round(BARS * length), COLOURS[tool]))
        below, self.top = self.top, top
        self.write(figure.name, room=NAMES - 16)
        self.top = below + LINE // 2

    def png(self) -> bytes:
        picture = Image.new("RGB", (WIDTH, self.top + MARGIN), "white")
        for stroke in self._strokes:
            stroke(ImageDraw.Draw(picture))
        data = io.BytesIO()
        picture.save(data, "PNG", optimize=True)
        return data.getvalue()
