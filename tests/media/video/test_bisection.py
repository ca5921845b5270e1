"""Long MPEG files by their time stamps and time codes; here "long" begins at 256 KB."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.clips import Encoding, Truth, truth
from tests.media import zoo
from tests.media.zoo import Change, Maker, encoded, patched, remuxed
from vllava_cli.media.sample import probe, sample
from vllava_cli.media.video import bisection
from vllava_cli.media.video.bitstream import group_number
from vllava_cli.nouns import Frames, Framing

FRAMES = 1200
RATE = {"b": "1500k", "minrate": "1500k", "maxrate": "1500k", "bufsize": "70k"}
OPEN = Encoding(codec="mpeg2video", fps=25, options={"g": "12", "bf": "2", **RATE})
"""7.5 KB a frame, so that each begins in a packet of its own, as in real files."""
CLOSED = replace(OPEN, options={"g": "15", "flags": "+cgop", "bf": "2", "sc_threshold": "1000000000", **RATE})
SEARCH, SCAN = "A search by time stamps tells", "One pass over the packets tells"


@pytest.fixture(autouse=True)
def _everything_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bisection, "LEAST_BYTES", 1 << 18)
    monkeypatch.setattr(bisection, "SHORT_BYTES", 1 << 16)


def without(first: int, after: int, *, moves: bool = False) -> Change:
    """Leaves packets out; with `moves`, those behind them get earlier times, so that only the time codes tell."""

    def change(packets: list[av.Packet]) -> Iterable[av.Packet]:
        keys = [number for number, packet in enumerate(packets) if packet.is_keyframe]
        packets = packets[: keys[first]] + packets[keys[after] :]
        gap = packets[keys[first]].dts - packets[keys[first] - 1].dts - round(Fraction(1, 25) / packets[0].time_base)
        for number, packet in enumerate(packets):
            if moves and number >= keys[first]:
                packet.pts, packet.dts = packet.pts - gap, packet.dts - gap
            yield packet

    return change


def uneven(packets: list[av.Packet]) -> Iterable[av.Packet]:
    """Every second frame is shown for three fields and the others for two, as films are on NTSC's DVDs."""
    step = round(Fraction(1, 25) / packets[0].time_base)
    for packet in packets:
        number = (packet.pts - packets[0].pts) // step
        packet.pts += number * step // 4 + number % 2 * step // 4
        packet.dts += number * step // 4 - step // 2
        yield packet


def coded(change: Callable[[int], int]) -> Callable[[bytes], bytes]:
    """Replaces the 25 bits of each time code: change(the number of the group) → the bits."""

    def patch(data: bytes) -> bytes:
        head, *groups = data.split(b"\0\0\x01\xb8")
        for number, group in enumerate(groups):
            code = (change(number) << 7 | group[3] & 0x7F).to_bytes(4, "big")
            head += b"\0\0\x01\xb8" + code + group[4:]
        return head

    return patch


def joined(path: Path, frames: int) -> Path:
    """Two files one after the other; both begin at the same time, and the second is a little longer."""
    counts = frames * 49 // 100, frames * 51 // 100
    parts = [zoo.plain_clip(zoo.beside(path, f"{count}.mpg"), count, encoding=OPEN) for count in counts]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def is_right(frames: Frames, expected: Truth) -> bool:
    shown = expected.pictures(expected.positions)
    assert frames.times_s == pytest.approx(expected.times_s(expected.positions), abs=1e-9)
    return (frames.pixels == np.stack([shown[place] for place in expected.positions])).all()


FILES: dict[str, tuple[Maker, str]] = {
    "open.mpg": (encoded(OPEN), SEARCH),
    "closed.mpg": (encoded(CLOSED), SEARCH),
    "film.mpg": (encoded(replace(OPEN, fps=Fraction(24000, 1001))), SEARCH),
    "mpeg1.mpg": (encoded(replace(OPEN, codec="mpeg1video")), SEARCH),
    "dvd.vob": (encoded(replace(OPEN, container="vob")), SEARCH),
    "broadcast.ts": (encoded(OPEN), SEARCH),
    "h264.ts": (encoded(zoo.CLOSED), SCAN),
    "a-tenth-missing.mpg": (remuxed(CLOSED, without(24, 33), first="plain.mpg"), SCAN),
    "a-group-missing.mpg": (remuxed(CLOSED, without(40, 41, moves=True), first="plain.mpg"), SCAN),
    "joined.mpg": (joined, "Decoded in full: two of its frames have the same time"),
    "telecined.mpg": (remuxed(CLOSED, uneven, first="plain.mpg"), SCAN),
    "codes-stand-still.mpg": (patched(OPEN, coded(lambda _: 1 << 12)), SCAN),
}


@pytest.mark.parametrize("name", FILES)
def test_the_eight_frames_of_a_plain_decode(tmp_path: Path, name: str) -> None:
    make, reason = FILES[name]
    path = make(tmp_path / name, FRAMES)
    frames, quick, full = sample(path, Framing()), probe(path), probe(path, is_full=True)
    assert is_right(frames, truth(path))
    assert frames.clip.way_reason.startswith(reason)
    assert (quick.frame_count, quick.is_rate_constant) == (full.frame_count, full.is_rate_constant)
    assert (quick.duration_s, quick.fps) == pytest.approx((full.duration_s, full.fps), abs=1e-9)


@pytest.mark.parametrize(
    "framing", [Framing(start_s=7.0, end_s=33.33), Framing(at_s=(47.99, 0.0, 20.039, 20.04, 20.05))]
)
def test_times_lead_to_the_same_frames_as_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, framing: Framing
) -> None:
    path = encoded(OPEN)(tmp_path / "a.mpg", FRAMES)
    found = sample(path, framing)
    monkeypatch.setattr(bisection, "LEAST_BYTES", 1 << 40)
    expected = sample(path, framing)
    assert (found.pixels == expected.pixels).all()
    assert found.times_s == expected.times_s
    assert (found.clip.way_reason[:23], expected.clip.way_reason[:23]) == (SEARCH[:23], SCAN[:23])


@pytest.mark.parametrize(
    ("code", "place", "rate", "number"),
    [
        ((0, 0, 0, 0, 0), 2, 25, 2),
        ((0, 1, 0, 1, 24), 0, 25, 90_049),
        ((1, 0, 0, 59, 29), 0, 30, 1799),
        ((1, 0, 1, 0, 2), 0, 30, 1800),
        ((1, 0, 10, 0, 0), 0, 30, 17_982),
    ],
)
def test_a_time_code_counts_pictures(code: tuple[int, ...], place: int, rate: int, number: int) -> None:
    """The code is drop flag, hours, minutes, seconds, pictures; `place` is the I picture's within its group."""
    drop, hours, minutes, seconds, pictures = code
    bits = drop << 24 | hours << 19 | minutes << 13 | 1 << 12 | seconds << 6 | pictures
    group, picture = (bits << 7).to_bytes(4, "big"), (place << 6 | 8).to_bytes(2, "big")
    packet = b"\0\0\x01\xb8" + group + b"\0\0\x01\0" + picture + bytes(2)
    assert group_number(memoryview(packet), rate) == number
    assert group_number(memoryview(packet[8:]), rate) is None
