"""What is cut out of a clip: each frame and each sound of it is one of the clip, at the right time."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import MPEG4, VP9, Encoding, index_of, picture, write_animation, write_clip
from tests.media.zoo import CLOSED, MPEG2_B, MPEG4_B, OPEN, VP8, Maker, encoded, remuxed, svt_av1, timed, x265
from vllava_cli.errors import MediaError
from vllava_cli.media.decoder import protocol
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.timeline.parts import ENDINGS, Cut, CutForm, Cutting

Shown = list[tuple[float, str]]
"""The time of each frame, and the hash of its pixels."""
CLICK_S = 0.5


@pytest.fixture(scope="module")
def client() -> Iterator[DecoderClient]:
    with DecoderClient() as started:
        yield started


def frames_of(path: Path) -> Shown:
    """Decodes a file from its beginning; times count from its first frame."""
    with av.open(str(path)) as container:
        frames = [frame for frame in container.decode(video=0) if frame.pts is not None]
        start = frames[0].pts
        return [
            (float((frame.pts - start) * frame.time_base), hashlib.md5(frame.to_ndarray().tobytes()).hexdigest())
            for frame in frames
        ]


def keys_of(path: Path) -> list[float]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        start = min(packet.pts for packet in packets)
        return [float((packet.pts - start) * stream.time_base) for packet in packets if packet.is_keyframe]


def cut(
    client: DecoderClient, path: Path, start_s: float, end_s: float, form: CutForm, **how: bool
) -> tuple[Path, Cut]:
    target = path.with_name(f"cut-of-{path.name}{ENDINGS[form]}")
    with target.open("wb") as file:
        found = client.cut(path, Cutting(start_s=start_s, end_s=end_s, form=form, **how), file)
    return target, found


def with_sound(encoding: Encoding, codec: str, *, rate: int = 48_000) -> Maker:
    """A clip with a sound that clicks every half second."""

    def make(path: Path, frames: int) -> Path:
        with av.open(str(path), "w") as container:
            video = container.add_stream(encoding.codec, rate=10, options=dict(encoding.options))
            video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
            sound = container.add_stream(codec, rate=rate, layout="mono")
            for index in range(frames):
                container.mux(video.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
                samples = np.zeros((1, rate // 10), np.float32)
                samples[:, : rate // 500] = 0.8 * (index % 5 == 0)
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.rate, frame.pts, frame.time_base = rate, index * rate // 10, Fraction(1, rate)
                container.mux(sound.encode(frame))
            container.mux(video.encode())
            container.mux(sound.encode())
        return path

    return make


def clicks_of(path: Path) -> list[float]:
    """Returns the times at which clicks begin, on the clock of the file's video."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        start_s, found, last_s = (
            float((container.streams.video[0].start_time or 0) * container.streams.video[0].time_base),
            [],
            -1.0,
        )
        for frame in container.decode(stream):
            samples = np.abs(frame.to_ndarray()).reshape(-1)
            loud = np.flatnonzero(samples > (0.3 if samples.dtype.kind == "f" else 9000))
            for place in loud:
                time_s = float(frame.pts * frame.time_base) + place / frame.sample_rate - start_s
                if time_s > last_s + CLICK_S / 2:
                    found.append(time_s)
                    last_s = time_s
    return found


def slow_start(index: int) -> int:
    return 5000 + index * 100 + (index % 3) * 20


FILES: dict[str, tuple[Maker, CutForm]] = {
    "closed.mp4": (encoded(CLOSED), "mp4"),
    "open.mp4": (encoded(OPEN), "mp4"),
    "open.mkv": (encoded(OPEN), "matroska"),
    "open.ts": (encoded(OPEN), "matroska"),
    "closed.mov": (encoded(CLOSED), "mov"),
    "fragmented.mp4": (remuxed(CLOSED, options={"movflags": "frag_keyframe+empty_moov"}), "mp4"),
    "hevc.mp4": (encoded(x265()), "mp4"),
    "hevc.mkv": (encoded(x265()), "matroska"),
    "av1.webm": (encoded(svt_av1()), "webm"),
    "vp8.webm": (encoded(VP8), "webm"),
    "vp9.webm": (encoded(VP9), "webm"),
    "mpeg2.ts": (encoded(MPEG2_B), "matroska"),
    "mpeg4.avi": (encoded(MPEG4_B), "matroska"),
    "mpeg4.mkv": (encoded(MPEG4_B), "matroska"),
    "rotated.mp4": (encoded(Encoding(options=dict(CLOSED.options), rotation=90, aspect=Fraction(4, 3))), "mp4"),
    "variable.mkv": (timed(CLOSED, slow_start), "matroska"),
    "variable.mp4": (timed(CLOSED, slow_start), "mp4"),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("start_s", "end_s"), [(2.05, 4.85), (0.0, 1.0), (2.95, 99.0)])
def test_a_copied_part_shows_the_frames_of_the_clip_from_a_key_frame_on(
    client: DecoderClient, tmp_path: Path, name: str, start_s: float, end_s: float
) -> None:
    maker, form = FILES[name]
    source = maker(tmp_path / name, 80)
    target, found = cut(client, source, start_s, end_s, form)

    whole, shown = frames_of(source), frames_of(target)
    first_s = next(time_s for time_s, _ in whole if time_s >= start_s)
    key_s = max(time_s for time_s in keys_of(source) if time_s <= first_s + 1e-6)
    expected = [(time_s - key_s, pixels) for time_s, pixels in whole if key_s - 1e-6 <= time_s < end_s]
    assert (found.is_copied, found.notes, found.start_s) == (True, (), pytest.approx(key_s, abs=1e-3))
    assert [pixels for _, pixels in shown[: len(expected)]] == [pixels for _, pixels in expected]
    assert [time_s for time_s, _ in shown[: len(expected)]] == pytest.approx([each for each, _ in expected], abs=2e-3)
    beyond = [pixels for _, pixels in shown[len(expected) :]]  # frames that the last ones refer to
    assert set(beyond) <= {pixels for _, pixels in whole} and len(beyond) <= 2


@pytest.mark.parametrize("name", FILES)
def test_an_exact_part_begins_and_ends_at_the_frames_that_were_asked_for(
    client: DecoderClient, tmp_path: Path, name: str
) -> None:
    maker, form = FILES[name]
    source = maker(tmp_path / name, 80)
    target, found = cut(client, source, 2.05, 2.95, form, is_exact=True)

    expected = [time_s for time_s, _ in frames_of(source) if 2.05 <= time_s < 2.95]
    times_s = [time_s for time_s, _ in frames_of(target)]
    assert (found.is_copied, found.start_s) == (False, pytest.approx(expected[0], abs=1e-3))
    assert times_s == pytest.approx([each - expected[0] for each in expected], abs=2e-3)


@pytest.mark.parametrize("is_exact", [False, True])
def test_a_turned_clip_stays_turned_and_keeps_the_shape_of_its_pixels(
    client: DecoderClient, tmp_path: Path, is_exact: bool
) -> None:
    source = FILES["rotated.mp4"][0](tmp_path / "rotated.mp4", 40)
    target, _ = cut(client, source, 1.0, 2.0, "mp4", is_exact=is_exact)
    for path in (source, target):
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            aspect = container.streams.video[0].sample_aspect_ratio
            assert (frame.rotation, aspect, frame.width) == (-90, Fraction(4, 3), 64)


@pytest.mark.parametrize(
    ("name", "encoding", "codec", "form"),
    [
        ("a.mp4", CLOSED, "aac", "mp4"),
        ("a.mkv", OPEN, "aac", "matroska"),
        ("a.ts", CLOSED, "aac", "matroska"),
        ("a.webm", VP9, "libopus", "webm"),
        ("a.mov", CLOSED, "pcm_s16le", "mov"),
        ("a.mkv", CLOSED, "pcm_s16le", "mp4"),
        ("a.avi", MPEG4, "mp3", "matroska"),
    ],
)
@pytest.mark.parametrize("is_exact", [False, True])
def test_the_sound_stays_with_the_picture(
    client: DecoderClient, tmp_path: Path, name: str, encoding: Encoding, codec: str, form: CutForm, is_exact: bool
) -> None:
    source = with_sound(encoding, codec)(tmp_path / name, 80)
    target, found = cut(client, source, 3.25, 5.75, form, is_exact=is_exact)
    expected = [each - found.start_s for each in clicks_of(source) if found.start_s < each < 5.7]
    assert len(expected) > 3
    assert clicks_of(target)[-4:] == pytest.approx(expected[-4:], abs=0.03)


def test_an_mp4_can_be_played_before_all_of_it_is_there(client: DecoderClient, tmp_path: Path) -> None:
    source = with_sound(CLOSED, "aac")(tmp_path / "a.mp4", 80)
    target, _ = cut(client, source, 2.0, 6.0, "mp4")
    data = target.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_text_of_a_clip_is_cut_with_it(client: DecoderClient, tmp_path: Path) -> None:
    source = tmp_path / "a.mkv"
    lines = "".join(f"{n}\n00:00:0{n},500 --> 00:00:0{n + 1},000\nline {n}\n\n" for n in range(7))
    write_clip(tmp_path / "plain.mp4", 80, encoding=CLOSED)
    (tmp_path / "a.srt").write_text(lines)
    with ExitStack() as files:
        inputs = [files.enter_context(av.open(str(tmp_path / name))) for name in ("plain.mp4", "a.srt")]
        to = files.enter_context(av.open(str(source), "w"))
        streams = [to.add_stream_from_template(each.streams[0], opaque=True) for each in inputs]
        pairs = [(packet, stream) for each, stream in zip(inputs, streams, strict=True) for packet in each.demux()]
        pairs = [(packet, stream) for packet, stream in pairs if packet.size]
        for packet, stream in sorted(pairs, key=lambda pair: pair[0].dts * pair[0].time_base):
            packet.stream = stream
            to.mux_one(packet)
    target, found = cut(client, source, 3.3, 5.0, "matroska")
    with av.open(str(target)) as container:
        packets = [packet for packet in container.demux(container.streams.subtitles[0]) if packet.size]
        found_lines = [(float(packet.pts * packet.time_base), bytes(packet)) for packet in packets]
    assert found.start_s == pytest.approx(3.2)
    assert found_lines == [(pytest.approx(0.3), b"line 3"), (pytest.approx(1.3), b"line 4")]


def joined(path: Path, frames: int) -> Path:
    """Two files, one behind the other; the clock begins anew in the middle."""
    parts = [encoded(CLOSED)(path.with_name(f"{number}.ts"), frames // 2).read_bytes() for number in range(2)]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize(
    ("name", "maker", "form"),
    [
        ("joined.ts", joined, "matroska"),
        ("a.wmv", encoded(Encoding(codec="wmv2", container="avi")), "matroska"),
        ("odd.gif", encoded(Encoding(codec="gif", pix_fmt="rgb8"), width=67, height=49), "matroska"),
        ("h264-in.mkv", encoded(CLOSED), "webm"),
    ],
)
def test_where_packets_cannot_be_copied_the_part_is_coded_again(
    client: DecoderClient, tmp_path: Path, name: str, maker: Maker, form: CutForm
) -> None:
    source = maker(tmp_path / name, 80)
    target, found = cut(client, source, 5.05, 6.95, form)
    assert not found.is_copied and "was coded again, because" in found.notes[0]
    times_s = [time_s for time_s, _ in frames_of(target)]
    assert times_s == pytest.approx([number / 10 for number in range(19)], abs=0.011)
    with av.open(str(target)) as container:
        shown = [index_of(frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)]
    assert shown == [each % 40 if name == "joined.ts" else each for each in range(51, 70)]


def test_damage_in_a_part_that_is_coded_again_is_told(client: DecoderClient, tmp_path: Path) -> None:
    source = encoded(CLOSED)(tmp_path / "a.mkv", 80)
    data = bytearray(source.read_bytes())
    data[len(data) // 3 : len(data) // 3 + 400] = bytes(400)
    source.write_bytes(data)
    target, found = cut(client, source, 1.0, 7.0, "matroska", is_exact=True)
    assert "damaged" in found.notes[0] and len(frames_of(target)) > 40


@pytest.mark.parametrize(
    ("maker", "start_s"),
    [
        (lambda path: write_animation(path / "a.webp"), 0.0),
        (lambda path: encoded(CLOSED)(path / "a.mp4", 20), 3.0),
        (lambda path: path, 0.0),
    ],
)
def test_what_cannot_be_cut_is_refused(
    client: DecoderClient, tmp_path: Path, maker: Callable[[Path], Path], start_s: float
) -> None:
    with pytest.raises(MediaError):
        client.cut(maker(tmp_path), Cutting(start_s=start_s, end_s=start_s + 1, form="mp4"), io.BytesIO())


def test_the_process_itself_can_write_nothing(client: DecoderClient, tmp_path: Path) -> None:
    """Only the file that the caller gives is written, even where the clip's own folder may be written to."""
    source = encoded(CLOSED)(tmp_path / "a.mp4", 40)
    client.cut(source, Cutting(start_s=1.0, end_s=2.0, form="mp4"), io.BytesIO())
    limits = Path(f"/proc/{client.pid}/limits").read_text()
    assert any(line.split()[:5] == ["Max", "file", "size", "0", "0"] for line in limits.splitlines())
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("piece", [{"at": 0, "bytes": 5 << 20}, {"at": 1 << 40, "bytes": 1}, {"at": -1, "bytes": 1}])
def test_a_piece_that_is_too_large_or_too_far_is_refused(piece: dict[str, int]) -> None:
    part = Cutting(start_s=0, end_s=1, form="mp4")
    request = protocol.Request(call="cut", path=Path("a.mp4"), folder="", cpu_s=1, cutting=part)
    stream, into = io.BytesIO(json.dumps({"is": "piece", **piece}).encode() + b"\n" + bytes(64)), io.BytesIO()
    with pytest.raises(protocol.ProtocolError):
        protocol.read_reply(stream, request, max_bytes=1 << 20, into=into)
    assert into.getvalue() == b""
