"""Files of cues, read by parsers that we didn't write: srt, webvtt-py, and FFmpeg."""

from __future__ import annotations

import html
import io
from fractions import Fraction
from pathlib import Path

import av
import pytest
import srt
import webvtt

from vllava_cli.cues.formats import CueFormat, CueText

Shown = list[tuple[int, int, str]]
"""(start and end in milliseconds, text)."""
TEXTS = (
    "A dog runs.",
    "Two lines,\n\n \nthe second behind an empty one. \n",
    "3",
    "a --> b",
    "00:00:01,000 --> 00:00:02,000",
    "5 < 7 & 7 > 5 &amp; <b>bold</b> < i >x",
    "NOTE this",
    "WEBVTT",
    "{\\an8}up \\N = # ; \\",
    "=;#",
    "\x1b[31mred\x00 \u202e",
    "ひまわり — ñ",
)
PLAIN = tuple("\n".join(part.strip() for part in text.split("\n") if part.strip()) for text in TEXTS)
PLAIN = tuple(text.replace("\x1b", "").replace("\x00", "").strip() for text in PLAIN)
IN_SRT = tuple(
    text.replace("-->", "→")
    .replace("<b>bold</b> < i >", "\u2039b\u203abold\u2039/b\u203a \u2039 i \u203a")
    .replace("{\\an8}", "{ \\an8}")
    for text in PLAIN
)
"""What SubRip can't hold: there is no way to write a tag as text."""


def shown(texts: tuple[str, ...]) -> Shown:
    return [(number * 1500, number * 1500 + 1500, text) for number, text in enumerate(texts)]


def text_of(format: CueFormat, texts: tuple[str, ...] = TEXTS) -> str:
    rows = [{"start_s": start / 1000, "end_s": end / 1000, "answer": text} for start, end, text in shown(texts)]
    return "".join(CueText(format=format).lines(rows))


def packets_of(path: Path) -> Shown:
    with av.open(str(path)) as container:
        (stream,) = container.streams.subtitles
        packets = [packet for packet in container.demux(stream) if packet.size]
        base = stream.time_base
    return [
        (int(each.pts * base * 1000), int((each.pts + each.duration) * base * 1000), bytes(each).decode())
        for each in packets
    ]


def events_of(path: Path) -> list[str]:
    """The texts that FFmpeg draws, in the form of ASS, without a renderer's own line breaks."""
    with av.open(str(path)) as container:
        found = [each for packet in container.demux(container.streams.subtitles[0]) for each in packet.decode()]
    return [each.ass.decode().split(",", 8)[8] for each in found]


def test_subrip_is_read_as_it_was_meant(tmp_path: Path) -> None:
    text = text_of("srt")
    found = [
        (int(each.start.total_seconds() * 1000), int(each.end.total_seconds() * 1000), each.content)
        for each in srt.parse(text)
    ]
    assert found == shown(IN_SRT)
    path = tmp_path / "a.srt"
    path.write_text(text)
    assert packets_of(path) == shown(IN_SRT)
    assert "bold" in events_of(path)[5] and "{\\b1}" not in "".join(events_of(path))


def test_webvtt_is_read_as_it_was_meant(tmp_path: Path) -> None:
    text = text_of("vtt")
    found = [(each.start, each.end, html.unescape(each.text)) for each in webvtt.from_buffer(io.StringIO(text))]
    assert found == [
        (f"00:00:{start / 1000:06.3f}", f"00:00:{end / 1000:06.3f}", text) for start, end, text in shown(PLAIN)
    ]
    path = tmp_path / "a.vtt"
    path.write_text(text)
    assert [(start, end) for start, end, _ in packets_of(path)] == [(start, end) for start, end, _ in shown(PLAIN)]
    drawn = [text.replace("\u2060", "").replace("\\{{}", "{") for text in events_of(path)]
    assert drawn == [text.replace("\n", "\\N") for text in PLAIN]


def test_chapters_are_read_as_they_were_meant(tmp_path: Path) -> None:
    path = tmp_path / "a.ffmeta"
    path.write_text(text_of("ffmeta"))
    with av.open(str(path), format="ffmetadata") as container:
        found = [
            (each["start"], each["end"], each["time_base"], each["metadata"]["title"].rstrip(" "))
            for each in container.chapters()
        ]
    assert found == [(start, end, Fraction(1, 1000), text) for start, end, text in shown(PLAIN)]


@pytest.mark.parametrize(("format", "text"), [("srt", ""), ("vtt", "WEBVTT\n\n"), ("ffmeta", ";FFMETADATA1\n")])
def test_a_file_without_cues_is_valid(format: CueFormat, text: str) -> None:
    assert text_of(format, ()) == text
