"""Figures as a picture: a section for each configuration, in it for each line bars whose length is speed, or thrift.

So longer is better everywhere: a bar is a share of the limit, or of the best where no limit is known. Drawn by Pillow.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageDraw, ImageFont

from vllava_cli.commands.bench.bars import Bar, Group, Who, groups
from vllava_cli.commands.bench.figures import configuration, speed
from vllava_cli.commands.bench.record import Record
from vllava_cli.measures import Trial
from vllava_cli.media.contact_sheet import fitted, printable

WIDTH = 1200
MARGIN = 40
LABELS = 220
"""Room for the names of lines."""
BARS = 560
BAR, BETWEEN_BARS, BETWEEN_GROUPS = 18, 3, 16
TITLE, TEXT, SMALL = 26, 17, 15
LINE = 24
"""From one line of small text to the next."""

# Okabe and Ito's blue and orange, which differ for all eyes, and a gray for what nobody reaches.
COLOURS: dict[Who, tuple[int, int, int]] = {"vllava": (0, 114, 178), "snippet": (230, 159, 0), "limit": (187, 187, 187)}
LEGEND: dict[Who, str] = {
    "vllava": "vllava",
    "snippet": "the documentation's snippet",
    "limit": "what the hardware allows",
}
INK, PALE, RULE = (34, 34, 34), (102, 102, 102), (221, 221, 221)


def chart_png(record: Record) -> bytes:
    """The bytes of a PNG, 1200 pixels wide."""
    sections = [Section.of(trial) for trial in record.trials]
    height = 2 * MARGIN + _HEAD + sum(section.height for section in sections) + 2 * LINE
    paper = Image.new("RGB", (WIDTH, height), "white")
    pen = _Pen(draw=ImageDraw.Draw(paper), top=MARGIN)
    _draw_head(pen, record)
    for section in sections:
        _draw_section(pen, section)
    _draw_foot(pen, record)
    data = io.BytesIO()
    paper.save(data, "PNG", optimize=True)
    return data.getvalue()


@dataclass(frozen=True, kw_only=True)
class Section:
    """What is drawn of a trial."""

    title: str
    groups: tuple[Group, ...]
    sentences: tuple[str, ...]
    """Below the bars: what went wrong, how fast the device was measured to be."""

    @classmethod
    def of(cls, trial: Trial) -> Section:
        title = configuration(trial.plan) if trial.plan else f"{trial.precision}, {trial.attention}"
        told = [trial.fault or "", f"Measured: {speed(trial.speed)}." if trial.speed else ""]
        wrapped = (line for sentence in told for line in textwrap.wrap(printable(sentence), 130))
        return cls(title=title, groups=tuple(groups(trial.lines)), sentences=tuple(wrapped))

    @property
    def height(self) -> int:
        return 2 * LINE + sum(map(_group_height, self.groups)) + LINE * len(self.sentences) + LINE


@dataclass(kw_only=True)
class _Pen:
    """Where the next thing is drawn."""

    draw: ImageDraw.ImageDraw
    top: int

    def text(self, left: int, text: str, *, size: int = SMALL, fill: tuple[int, int, int] = INK, room: int = 0) -> None:
        """In the middle of the next line of that size."""
        found = fitted(printable(text), _font(size), room or WIDTH - MARGIN - left)
        self.draw.text((left, self.top), found, fill=fill, font=_font(size), anchor="lm")


_HEAD = TITLE + 3 * LINE


def _draw_head(pen: _Pen, record: Record) -> None:
    asked = record.asked
    pen.top += TITLE // 2
    pen.text(MARGIN, f"vllava bench: {asked.model}", size=TITLE)
    pen.top += TITLE // 2 + LINE
    left = MARGIN
    for who, words in LEGEND.items():
        pen.draw.rectangle((left, pen.top - 8, left + 15, pen.top + 7), fill=COLOURS[who])
        pen.text(left + 24, words)
        left += 24 + round(_font(SMALL).getlength(words)) + 36
    pen.top += LINE
    pen.text(
        MARGIN, "Longer is better: a bar is a share of the limit, or of the best where no limit is known.", fill=PALE
    )
    pen.top += LINE


def _draw_section(pen: _Pen, section: Section) -> None:
    pen.draw.line((MARGIN, pen.top, WIDTH - MARGIN, pen.top), fill=RULE)
    pen.top += LINE
    pen.text(MARGIN, section.title, size=TEXT + 2)
    pen.top += LINE
    for group in section.groups:
        _draw_group(pen, group)
    for sentence in section.sentences:
        pen.text(MARGIN, sentence, fill=PALE)
        pen.top += LINE
    pen.top += LINE


def _draw_group(pen: _Pen, group: Group) -> None:
    top = pen.top
    pen.top += _group_height(group) // 2 - BETWEEN_GROUPS // 2
    pen.text(MARGIN, group.name, size=TEXT, room=LABELS - 16)
    pen.top = top
    for bar in group.bars:
        _draw_bar(pen, bar)
        pen.top += BAR + BETWEEN_BARS
    pen.top = top + _group_height(group)


def _draw_bar(pen: _Pen, bar: Bar) -> None:
    left, middle = MARGIN + LABELS, pen.top + BAR // 2
    right = left + max(2, round(BARS * bar.length))
    pen.draw.rectangle((left, pen.top, right, pen.top + BAR - 1), fill=COLOURS[bar.who])
    least, most = (left + round(BARS * end) for end in bar.spread)
    if most - least >= 3:
        pen.draw.line((least, middle, most, middle), fill=INK)
        for end in (least, most):
            pen.draw.line((end, middle - 4, end, middle + 4), fill=INK)
    top, pen.top = pen.top, middle
    pen.text(max(right, most) + 10, bar.text, fill=INK if bar.who == "vllava" else PALE)
    pen.top = top


def _draw_foot(pen: _Pen, record: Record) -> None:
    for text in _about(record):
        pen.text(MARGIN, text, fill=PALE)
        pen.top += LINE


def _about(record: Record) -> Iterator[str]:
    machine, asked = record.machine, record.asked
    clip = asked.clip
    where = f"{', '.join(machine.gpus) or machine.cpu}; {machine.cores} CPU cores"
    yield f"{where}; {machine.measured_at}; median of {asked.repeat}"
    releases = ", ".join(f"{name} {release}" for name, release in machine.versions if release)
    yield f"{clip.path.name}, {clip.width}x{clip.height}; {asked.new_tokens} new tokens; {releases}"


def _group_height(group: Group) -> int:
    return len(group.bars) * (BAR + BETWEEN_BARS) + BETWEEN_GROUPS


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
