"""Reads subtitles with FFmpeg's demuxers, from a file or from a track of a clip; only the decoding process does this.

The text of a packet is read here: no subtitle decoder runs.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
from av.packet import Packet
from av.stream import Discard, Disposition
from av.subtitles.stream import SubtitleStream

from vllava_cli.errors import MediaError, quoted
from vllava_cli.media.container import DECODE_ERRORS, opened
from vllava_cli.media.decoder.protocol import MOST_CHARACTERS, MOST_LINES
from vllava_cli.media.file_check import opened_file
from vllava_cli.media.timeline.spoken import unrolled
from vllava_cli.media.video.seek import start_of
from vllava_cli.nouns import SpokenLine, Subtitles

MOST_BYTES = 16 << 20
_MOST_LINE_CHARACTERS = 16 << 10
_TEXT_CODECS = ("mov_text", "subrip", "webvtt", "ass", "ssa", "text")
_ONLY_TEXT = {"format_whitelist": "srt,webvtt,ass", "protocol_whitelist": "none"}
_TAGS = re.compile(
    r"</?(?:i|b|u|s|c|v|em|strong|font|ruby|rt|lang|span)(?:[.\s/][^<>]*)?>|<\d[\d:.]*>|\{\\[^{}]*\}", re.IGNORECASE
)
_BREAKS = re.compile(r"<br\s*/?>|\\[Nnh]", re.IGNORECASE)
_ASS_CODES = re.compile(r"\{[^{}]*\}")
_ASS_DRAWING = re.compile(r"\{[^{}]*\\p[1-9]")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def read_subtitles(path: Path, sidecar: Path | None) -> Subtitles:
    """Reads the lines of a file or, without one, those of the clip's default text track. Errors: MediaError."""
    return read_sidecar(sidecar) if sidecar else read_track(path)


def read_sidecar(path: Path) -> Subtitles:
    """Reads SubRip, WebVTT or ASS; the content decides which. Errors: MediaError."""
    with opened_file(path) as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise MediaError(f"{quoted(path)} is larger than {MOST_BYTES >> 20} MiB, too large for subtitles. Split it.")
    text, fault = decoded(data)
    faults = [f"{quoted(path)} {fault}"] if fault else []
    source = io.BytesIO(text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").encode())
    form = "webvtt" if text.startswith("WEBVTT") else "ass" if "[Script Info]" in text[:4096] else "srt"
    try:
        with av.open(source, "r", format=form, options=_ONLY_TEXT, metadata_errors="replace") as container:
            packets = [packet for packet in islice(container.demux(), MOST_LINES + 1) if packet.pts is not None]
    except DECODE_ERRORS as exc:
        raise MediaError(f"{quoted(path)} can't be read as subtitles. Save it as SubRip (.srt).") from exc
    places = [packet.pos or 0 for packet in packets]
    if places != sorted(places):
        faults.append(f"{quoted(path)} has lines that aren't in the order of their times: they were put in order.")
    return _subtitles(str(path), path, _lines(packets, form, Fraction(0)), faults)


def read_track(path: Path) -> Subtitles:
    """Reads a clip's text track, the default one or else the first; its times count as those of the frames do."""
    with opened(path, has_decoders=False) as container:
        streams = container.streams.subtitles
        texts = [stream for stream in streams if _codec(stream) in _TEXT_CODECS]
        if not texts:
            return _pictures(path, [_codec(stream) for stream in streams])
        stream = next((each for each in texts if each.disposition & Disposition.default), texts[0])
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        language = stream.metadata.get("language", "und")
        named = f", {language}" if re.fullmatch("[a-z]{2,3}", language) and language != "und" else ""
        source = f"stream {stream.index} ({_codec(stream)}{named})"
        return _subtitles(source, path, _lines(container.demux(stream), _codec(stream), start_of(path)), [])


def decoded(data: bytes) -> tuple[str, str]:
    """Decodes a file's text, by its mark or as UTF-8; any other is read as Windows-1252, and the clause says so."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace"), ""
    try:
        return data.decode("utf-8-sig"), ""
    except UnicodeDecodeError:
        fault = "isn't UTF-8, and was read as Windows-1252. Save it as UTF-8 if letters are wrong."
    try:
        return data.decode("cp1252"), fault
    except UnicodeDecodeError:
        return data.decode("latin-1"), fault


def _subtitles(source: str, path: Path, lines: Iterable[SpokenLine], faults: list[str]) -> Subtitles:
    """Puts the lines together, as many as are allowed; a fault says that there are none, or more."""
    found = list(islice(lines, MOST_LINES + 1))
    kept, characters = [], 0
    for line in sorted(found[:MOST_LINES], key=lambda line: (line.start_s, line.end_s)):
        characters += len(line.text)
        if characters > MOST_CHARACTERS:
            break
        kept.append(line)
    if len(kept) < len(found):
        faults.append(
            f"{quoted(path)} has more subtitles than are read: those after {kept[-1].end_s:.0f} s are left out."
        )
    if not kept:
        faults.append(f"{quoted(path)} has no line of subtitles that can be read. Check the file, or give --subs off.")
    return Subtitles(source=source, lines=tuple(unrolled(kept)), faults=tuple(faults))


def _pictures(path: Path, codecs: list[str]) -> Subtitles:
    if not codecs:
        return Subtitles()
    fault = f"{quoted(path)} has subtitles ({', '.join(dict.fromkeys(codecs))}) that aren't text, so none are read"
    return Subtitles(faults=(f"{fault}. Give a file of text with --subs FILE.",))


def _lines(packets: Iterable[Packet], codec: str, origin_s: Fraction) -> Iterator[SpokenLine]:  # type: ignore[type-arg]
    """Yields a line for each packet that has a text and is shown after the clip's first frame."""
    for packet in packets:
        text = _text(bytes(packet), codec)
        if not text or packet.pts is None or packet.time_base is None:
            continue
        start_s = packet.pts * packet.time_base - origin_s
        end_s = start_s + max(0, packet.duration or 0) * packet.time_base
        if end_s > 0:
            yield SpokenLine(start_s=max(0.0, float(start_s)), end_s=float(end_s), text=text)


def _text(payload: bytes, codec: str) -> str:
    """Returns the plain rows of a packet's text: b"<i>Hi</i> \\n\\n you" of subrip → "Hi\\nyou"."""
    if codec == "mov_text":
        payload = payload[2 : 2 + int.from_bytes(payload[:2], "big")]
    text = decoded(payload)[0][:_MOST_LINE_CHARACTERS]
    if codec in ("ass", "ssa"):
        text = text.split(",", 8)[-1]
        text = "" if _ASS_DRAWING.search(text) else _ASS_CODES.sub("", text)
    text = _TAGS.sub("", _BREAKS.sub("\n", text))
    if codec == "webvtt":
        text = html.unescape(text)
    rows = (" ".join(_CONTROLS.sub(" ", row).split()) for row in text.split("\n"))
    return "\n".join(filter(None, rows))


def _codec(stream: SubtitleStream) -> str:
    context = stream.codec_context
    return context.codec.canonical_name if context else "an unknown kind"
