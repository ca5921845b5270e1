from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.clips import APNG, VP9, Encoding, cut, full_decode, write_animation, write_clip
from tests.media import zoo
from vllava_cli.media.container import opened, video_stream
from vllava_cli.media.decoder.protocol import CORES_SETTING
from vllava_cli.media.sample import probe, sample
from vllava_cli.media.video.decode import parallelism, usable_cores
from vllava_cli.media.video.index import DistrustError, PacketIndex
from vllava_cli.nouns import Framing

TABLE = "The file's own sample table tells where each frame is; at most"
SCAN = "One pass over the packets tells where each frame is; at most"
Maker = Callable[[Path, int], Path]


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("a.mp4", zoo.encoded(zoo.CLOSED), f"{TABLE} 64 of 400 are decoded."),
        ("a.mkv", zoo.encoded(zoo.CLOSED), f"{SCAN} 64 of 400 are decoded."),
        ("a.mp4", zoo.edited(zoo.CLOSED, (33.0, 3.4)), f"{SCAN} 56 of 330 are decoded."),
        ("a.mkv", zoo.remuxed(zoo.CLOSED, zoo.doubled_stamps), "two of its frames have the same time stamp"),
        (
            "a.mkv",
            zoo.blocks_moved(zoo.encoded(zoo.CLOSED), lambda n, t: -950 * (n > t // 2)),
            "its time stamps jump back",
        ),
        (
            "a.mkv",
            zoo.remuxed(zoo.CLOSED, zoo.from_second_on),
            "it doesn't begin with a frame that can be decoded by itself",
        ),
        ("a.h264", zoo.encoded(Encoding(container="h264")), "its frames have no time stamps"),
        ("a.asf", zoo.encoded(Encoding(codec="wmv2")), "frames coded in wmv2 may depend on any frame before them"),
        ("a.png", zoo.encoded(APNG), "frames coded in apng may depend on any frame before them"),
    ],
)
def test_the_reason_for_the_way(tmp_path: Path, name: str, make: Maker, reason: str) -> None:
    clip = sample(make(tmp_path / name, 400), Framing()).clip
    expected = reason if reason.startswith((TABLE, SCAN)) else f"Decoded in full: {reason}."
    assert clip.way_reason == expected
    assert clip.way == ("seek" if reason.startswith((TABLE, SCAN)) else "decode")


@pytest.mark.parametrize("change", [zoo.doubled_stamps, zoo.from_second_on])
def test_packets_are_counted_though_their_order_is_not_to_be_relied_on(tmp_path: Path, change: Any) -> None:
    """With the number, the full decode that follows knows which frames to convert, and is made once."""
    path = zoo.remuxed(zoo.CLOSED, change)(tmp_path / "a.mkv", 400)
    with opened(path) as container, pytest.raises(DistrustError) as caught:
        PacketIndex(container, video_stream(container, path))
    assert caught.value.packets == len(zoo.packets_of(path)) > 300


def test_vp9_in_an_mp4_is_scanned_for_hidden_frames(tmp_path: Path) -> None:
    assert sample(zoo.encoded(VP9)(tmp_path / "a.mp4", 60), Framing()).clip.way_reason.startswith(SCAN.split(";")[0])


def test_damage_in_a_needed_group_leads_to_decoding_through(tmp_path: Path) -> None:
    clip = sample(zoo.wiped(zoo.encoded(zoo.CLOSED), 0.3, 0.7, is_random=True)(tmp_path / "a.mp4", 400), Framing()).clip
    assert clip.way_reason == "Decoded in full: a frame that is needed can't be decoded."
    assert clip.faults


def test_a_table_that_promises_more_than_the_file_holds(tmp_path: Path) -> None:
    whole = write_clip(
        tmp_path / "a.mp4", 400, encoding=Encoding(options={"g": "12"}, muxer_options={"movflags": "faststart"})
    )
    clip = sample(cut(whole, 0.6, "b.mp4"), Framing()).clip
    assert clip.frame_count < 400
    assert clip.faults == (
        f"{clip.frame_count} of 400 frames of '{tmp_path}/b.mp4' could be decoded: the file is truncated or damaged.",
    )


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.h264"])
@pytest.mark.parametrize("framing", [Framing(start_s=7.0), Framing(start_s=3.3, end_s=20.05), Framing(end_s=0.35)])
def test_a_trim_finds_the_same_frames_by_every_way(tmp_path: Path, name: str, framing: Framing) -> None:
    path = zoo.encoded(zoo.CLOSED)(tmp_path / name, 400)
    times_s = [index / 10 for index in range(400)]
    start_s, end_s = framing.start_s or 0.0, framing.end_s or 1e9
    playing = [index for index, time_s in enumerate(times_s) if start_s <= time_s < end_s]
    chosen = [playing[place * len(playing) // 8] for place in range(8)]
    frames = sample(path, framing)
    assert frames.times_s == tuple(times_s[index] for index in chosen)
    everything = full_decode(path)
    assert (frames.pixels == np.stack([everything[index] for index in chosen])).all()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.gif"])
def test_frames_at_times_are_those_that_a_player_shows(tmp_path: Path, name: str) -> None:
    path = write_animation(tmp_path / name, 60) if name == "a.gif" else zoo.encoded(zoo.CLOSED)(tmp_path / name, 60)
    everything = full_decode(path)
    frames = sample(path, Framing(at_s=(5.99, 0.0, 2.549, 2.5, 2.5)))
    assert (frames.pixels == np.stack([everything[index] for index in (59, 0, 25, 25, 25)])).all()
    assert frames.times_s == pytest.approx((5.9, 0.0, 2.5, 2.5, 2.5))


@pytest.mark.parametrize(
    ("name", "make", "is_constant"),
    [
        ("a.mp4", zoo.encoded(zoo.CLOSED), True),
        ("a.mkv", zoo.encoded(zoo.CLOSED), True),
        ("a.h264", zoo.encoded(zoo.CLOSED), True),
        ("a.mp4", zoo.timed(zoo.CLOSED, lambda index: 100 * index + 30 * (index % 2)), False),
        ("a.mkv", zoo.timed(zoo.CLOSED, lambda index: 100 * index + 30 * (index % 2)), False),
    ],
)
def test_whether_frames_are_equally_far_apart(tmp_path: Path, name: str, make: Maker, is_constant: bool) -> None:
    assert probe(make(tmp_path / name, 60)).is_rate_constant is is_constant


def test_a_full_probe_finds_damage_where_no_needed_frame_lies(tmp_path: Path) -> None:
    path = zoo.encoded(zoo.CLOSED)(tmp_path / "a.mp4", 400)
    intact = probe(path, is_full=True)
    assert (intact.way_reason, intact.frame_count, intact.faults) == ("Every frame was decoded, as was asked.", 400, ())
    data = bytearray(path.read_bytes())
    middle = int(len(data) * 0.56)
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    assert probe(path, is_full=True).faults


@pytest.mark.parametrize(
    ("lengths", "frame_pixels", "cores", "expected"),
    [
        ([250] * 8, 1920 * 1080, 2, (2, 1)),
        ([250] * 8, 1920 * 1080, 16, (3, 4)),
        ([250] * 8, 1920 * 1080, 1, (1, 1)),
        ([250], 1920 * 1080, 16, (1, 4)),
        ([225, 20], 1920 * 1080, 2, (1, 2)),
        ([8] * 8, 64 * 48, 16, (1, 1)),
        ([250] * 8, 7680 * 4320, 16, (1, 1)),
    ],
)
def test_how_many_decoders_share_the_runs(
    lengths: list[int], frame_pixels: int, cores: int, expected: tuple[int, int]
) -> None:
    assert parallelism(lengths, frame_pixels=frame_pixels, cores=cores) == expected


@pytest.mark.parametrize(
    ("lengths", "cores", "expected"), [([150, 102], 2, (2, 1)), ([250], 2, (1, 1)), ([250], 16, (1, 4))]
)
def test_threads_that_gain_half_are_taken_by_three_or_not_at_all(
    lengths: list[int], cores: int, expected: tuple[int, int]
) -> None:
    assert parallelism(lengths, frame_pixels=854 * 480, cores=cores, thread_gain=0.5) == expected


def test_a_process_decodes_with_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert usable_cores() == 4
    for share, expected in (("1", 1), ("3", 3), ("9", 4)):
        monkeypatch.setenv(CORES_SETTING, share)
        assert usable_cores() == expected
