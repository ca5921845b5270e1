"""Draws the figures of bench as a PNG: a section for each configuration, and in it a group of bars for each figure.

A bar's length is the share of the limit, or of the best tool if no limit is known: a longer bar is always better. A
tool that needs less memory has a longer bar, too. Pillow draws the picture.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from vllava_cli.commands.bench_report import BenchRecord, number, share, speed, times
from vllava_cli.engine.measuring.figures import Figure, Measured
from vllava_cli.media.contact_sheet import fitted, printable

WIDTH, MARGIN, NAMES, BARS, LINE = 1200, 40, 220, 560, 22
# Okabe and Ito's blue and orange, which differ for all eyes, and a gray for the limit.
COLOURS = {"vllava": (0, 114, 178), "the documentation's snippet": (230, 159, 0), "the limit": (187, 187, 187)}
INK = (34, 34, 34)


@dataclass(frozen=True)
class _Row:
    """A line of the chart: a text on the left, then the bar of a tool, from 0 to 1 long, and the bar's text."""

    text: str = ""
    tool: str | None = None
    length: float = 0.0
    beside: str = ""
    size: int = 15


def chart_png(record: BenchRecord) -> bytes:
    """Draws a record as a PNG, 1200 pixels wide, and returns its bytes."""
    rows = list(_rows(record))
    picture = Image.new("RGB", (WIDTH, 2 * MARGIN + LINE * len(rows)), "white")
    draw = ImageDraw.Draw(picture)

    def write(text: str, left: int, right: int, size: int) -> None:
        font = ImageFont.load_default(size)
        draw.text((left, middle), fitted(printable(text), font, right - left), fill=INK, font=font, anchor="lm")

    for place, row in enumerate(rows):
        middle, left = MARGIN + LINE * place + LINE // 2, MARGIN + NAMES
        write(row.text, MARGIN, left - 16 if row.tool else WIDTH - MARGIN, row.size)
        if row.tool:
            right = left + max(2, round(BARS * row.length))
            draw.rectangle((left, middle - 9, right, middle + 8), fill=COLOURS[row.tool])
            write(row.beside, right + 10, WIDTH - MARGIN, row.size)
    data = io.BytesIO()
    picture.save(data, "PNG", optimize=True)
    return data.getvalue()


def _rows(record: BenchRecord) -> Iterator[_Row]:
    machine, clip, task = record.machine, record.clip, record.task
    yield from (_Row(f"vllava bench: {record.model}", size=26), _Row())
    yield from (_Row(tool=tool, length=0.03, beside=tool) for tool in COLOURS)
    yield _Row("Longer is better: a bar is a share of the limit, or of the best where no limit is known.")
    for trial in record.trials:
        yield from (_Row(), _Row(trial.name, size=19))
        for figure in trial.lines:
            bars = bars_of(figure).items()
            names = [figure.name, *[""] * len(bars)]
            yield from (_Row(name, tool, *bar) for name, (tool, bar) in zip(names, bars, strict=False))
            yield _Row("" if bars else figure.name)
        yield from [_Row(f"Measured: {speed(trial.speed)}.")] if trial.speed else []
        yield from map(_Row, textwrap.wrap(printable(trial.fault or ""), 130))
    where = f"{', '.join(machine.gpus) or machine.cpu}; {machine.cores} CPU cores"
    releases = ", ".join(f"{name} {release}" for name, release in machine.versions.items() if release)
    yield from (_Row(), _Row(f"{where}; {machine.measured_at}; median of {task.repeat}"))
    yield _Row(f"{clip.path.name}, {clip.width}x{clip.height}; {task.new_tokens} new tokens; {releases}")


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
