"""Lines of each kind of subtitles, from files and from tracks, as the decoding process reads them."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.clips import picture
from vllava_cli.media.decoder.stdin_file import Reader
from vllava_cli.nouns import Subtitles

ASS = (
    "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize\nStyle: Default,Arial,16\n\n"
    "[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
)
SRT = (
    "1\n00:00:01,000 --> 00:00:02,500\n<i>Hello</i>\n{\\an8}you.\n\n2\n0:00:03.000 --> 00:00:04,000 X1:9\n"
    "</s> <video> 42\n"
)
Lines = list[tuple[float, float, str]]


@pytest.fixture(scope="module")
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader


def told(found: Subtitles) -> Lines:
    return [(line.start_s, line.end_s, line.text) for line in found.lines]


HELLO: Lines = [(1.0, 2.5, "Hello you."), (3.0, 4.0, "<video> 42")]
NOT_UTF8 = "isn't UTF-8, and was read as Windows-1252. Save it as UTF-8 if letters are wrong."
VTT = """WEBVTT - a title
Kind: captions

STYLE
::cue {color: red}

NOTE not said

id-1
00:01.000 --> 00:02.000 align:start
so<00:00:01.320><c> it</c><00:00:01.500><c.red> is</c>

00:00:02.000 --> 00:00:04.000
<v Bob>so it is</v>
a &lt;b&gt; &amp;"""
EVENTS = """Dialogue: 0,0:00:01.00,0:00:02.00,Default,Bob,0,0,0,,{\\i1}Hi{\\i0}, you\\Nthere
Comment: 0,0:00:02.00,0:00:03.00,Default,,0,0,0,,no
Dialogue: 0,0:00:04.00,0:00:05.00,Default,,0,0,0,,{\\p1}m 0 0 l 1 1
"""


def srt(*lines: tuple[int, int, str]) -> bytes:
    return "".join(f"1\n00:00:0{start},000 --> 00:00:0{end},000\n{text}\n\n" for start, end, text in lines).encode()


FILES: dict[str, tuple[bytes, Lines, str]] = {
    "srt": (SRT.encode(), HELLO, ""),
    "bom": (b"\xef\xbb\xbf" + SRT.encode(), HELLO, ""),
    "carriage returns": (SRT.replace("\n", "\r\n").encode(), HELLO, ""),
    "utf-16": (SRT.encode("utf-16"), HELLO, ""),
    "utf-16, the other order": (("\ufeff" + SRT).encode("utf-16-be"), HELLO, ""),
    "without numbers": (srt((1, 2, "foo"), (3, 4, "bar")).replace(b"1\n", b""), [(1, 2, "foo"), (3, 4, "bar")], ""),
    "windows-1252": (
        SRT.replace("you", "caf\xe9 \u20ac").encode("cp1252"),
        [(1.0, 2.5, "Hello caf\xe9 \u20ac."), HELLO[1]],
        NOT_UTF8,
    ),
    "not even that": (srt((1, 2, "\xe9")).decode().encode("latin-1") + b"\x81", [(1, 2, "\xe9")], NOT_UTF8),
    "vtt": (VTT.encode(), [(1, 2, "so it is"), (2, 4, "a <b> &")], ""),
    "ass": ((ASS + EVENTS).encode(), [(1, 2, "Hi, you there")], ""),
    "out of order": (
        srt((3, 4, "late"), (1, 2, "early")),
        [(1, 2, "early"), (3, 4, "late")],
        "has lines that aren't in the order of their times: they were put in order.",
    ),
    "overlapping": (srt((1, 4, "a"), (2, 3, "b")), [(1, 4, "a"), (2, 3, "b")], ""),
    "empty lines": (srt((1, 2, ""), (3, 4, "<i></i>"), (5, 6, "b")), [(5, 6, "b")], ""),
    "ends before it begins": (srt((2, 1, "a"), (3, 4, "b")), [(2, 3, "a"), (3, 4, "b")], ""),
    "no subtitles": (
        b"\x00\x01binary --> \xff",
        [],
        "has no line of subtitles that can be read. Check the file, or give --subs off.",
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_each_kind_and_with_each_fault(
    reader: Reader, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data, lines, fault = FILES[name]
    monkeypatch.chdir(tmp_path)
    Path("it.srt").write_bytes(data)
    found = reader.subtitles(clip, Path("it.srt"))
    faults = [each for each in found.faults if name != "no subtitles" or "UTF-8" not in each]
    assert (told(found), faults, found.source) == (lines, [f"'it.srt' {fault}"] if fault else [], "it.srt")


def test_what_cannot_be_read_is_a_fault_and_no_error(reader: Reader, clip: Path, tmp_path: Path) -> None:
    large, gone = tmp_path / "large.srt", tmp_path / "gone.srt"
    with large.open("wb") as file:
        file.truncate((16 << 20) + 1)
    fault = f"What is spoken in '{clip}' isn't read: "
    assert reader.subtitles(clip, large) == Subtitles(
        faults=(f"{fault}'{large}' is larger than 16 MiB, too large for subtitles. Split it.",)
    )
    assert reader.subtitles(clip, gone) == Subtitles(faults=(f"{fault}There is no file '{gone}'. Check the path.",))


def test_lines_beyond_the_limit_are_left_out_with_a_word(reader: Reader, clip: Path, tmp_path: Path) -> None:
    path, text = tmp_path / "long.srt", "\n".join(["w" * 4000] * 5)
    times = [f"00:{number // 60:02}:{number % 60:02}" for number in range(130)]
    path.write_text("".join(f"1\n{time},000 --> {time},500\n{text}\n\n" for time in times))
    found = reader.subtitles(clip, path)
    assert (len(found.lines), {line.text for line in found.lines}) == (128, {text[: 16 << 10].replace("\n", " ")})
    assert found.faults == (f"'{path}' has more subtitles than are read: those after 128 s are left out.",)


def write_track(path: Path, codec: str, payloads: list[bytes], *, first_ms: int = 0, is_default: bool = True) -> Path:
    """Three seconds of video that begin at `first_ms`, a text in each second, half a second after its beginning."""
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=10)
        video.width, video.height, video.pix_fmt, video.time_base = 64, 48, "yuv420p", Fraction(1, 1000)
        tracks = []
        for kind in ("ass", codec) if is_default and path.suffix == ".mkv" else (codec,):
            track = out.add_stream(kind)
            track.time_base, track.codec_context.subtitle_header = Fraction(1, 1000), ASS.encode()
            tracks.append(track)
        tracks[-1].disposition = av.stream.Disposition.default
        tracks[-1].metadata["language"] = "eng"
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(picture(index), format="rgb24")
            frame.pts, frame.time_base = first_ms + 100 * index, Fraction(1, 1000)
            out.mux(video.encode(frame))
            if index % 10 == 5:
                for track in tracks:
                    other = b"0,0,Default,,0,0,0,,other" if codec == "ass" else b"other"
                    packet = av.Packet(payloads[index // 10] if track is tracks[-1] else other)
                    packet.stream, packet.time_base = track, Fraction(1, 1000)
                    packet.pts = packet.dts = first_ms + 100 * index
                    packet.duration = 250
                    out.mux(packet)
        out.mux(video.encode())
    return path


def boxed(text: str) -> bytes:
    return len(text.encode()).to_bytes(2, "big") + text.encode()


TRACKS = {
    "mov_text": ("a.mp4", [boxed("Hello"), boxed("h\xe9\nyou"), boxed("42")]),
    "subrip": ("a.mkv", [b"<b>Hello</b>", b"h\xc3\xa9\nyou", b"42"]),
    "webvtt": ("a.mkv", [b"<c>Hello</c>", b"h&eacute;\nyou", b"42"]),
    "ass": ("a.mkv", [b"0,0,Default,,0,0,0,,{\\b1}Hello", b"1,0,D,,0,0,0,,h\xc3\xa9\\Nyou", b"2,0,D,,0,0,0,,42"]),
}


@pytest.mark.parametrize("codec", TRACKS)
@pytest.mark.parametrize("first_ms", [0, 1400])
def test_the_default_track_is_read_and_its_times_count_from_the_first_frame(
    reader: Reader, tmp_path: Path, codec: str, first_ms: int
) -> None:
    name, payloads = TRACKS[codec]
    path = write_track(tmp_path / name, codec, payloads, first_ms=first_ms)
    found = reader.subtitles(path)
    number = 1 if codec == "mov_text" else 2
    assert found == Subtitles(source=f"stream {number} ({codec}, eng)", lines=found.lines)
    assert told(found) == [(0.5, 0.75, "Hello"), (1.5, 1.75, "h\xe9 you"), (2.5, 2.75, "42")]


def test_tracks_of_pictures_are_named_and_not_read(reader: Reader, tmp_path: Path, clip: Path) -> None:
    path = write_track(tmp_path / "a.mkv", "dvd_subtitle", [b"\0"] * 3, is_default=False)
    fault = f"'{path}' has subtitles (dvd_subtitle) that aren't text, so none are read. "
    fault += "Give a file of text with --subs FILE."
    assert reader.subtitles(path) == Subtitles(faults=(fault,))
    assert reader.subtitles(clip) == Subtitles()
