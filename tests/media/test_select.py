from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllava_cli.errors import MediaError, UsageError
from vllava_cli.media.select import (
    check_trim,
    choose,
    first_tick,
    in_play,
    pick,
    reference,
    shown_at,
    spread,
)
from vllava_cli.nouns import Clip, Fit, Frames, Framing

TIMES_S = tuple(index / 2 for index in range(8))


@pytest.mark.parametrize(
    ("frame_count", "positions"),
    [
        (1, (0, 0, 0, 0, 0, 0, 0, 0)),
        (3, (0, 0, 0, 1, 1, 1, 2, 2)),
        (8, (0, 1, 2, 3, 4, 5, 6, 7)),
        (60, (0, 7, 15, 22, 30, 37, 45, 52)),
    ],
)
def test_the_reference_positions(frame_count: int, positions: tuple[int, ...]) -> None:
    assert pick(frame_count) == positions


@given(st.integers(1, 1_000_000))
def test_the_positions_are_those_of_the_documentation(frame_count: int) -> None:
    assert pick(frame_count) == tuple(np.arange(0, frame_count, frame_count / 8).astype(int))


@given(st.integers(1, 1_000_000), st.integers(1, 16).flatmap(lambda of: st.tuples(st.integers(0, of - 1), st.just(of))))
def test_shifted_positions_are_exact(frame_count: int, sample: tuple[int, int]) -> None:
    number, of = sample
    found = pick(frame_count, shift=number / of)
    assert found == tuple((i * of + number) * frame_count // (8 * of) for i in range(8))
    assert found[-1] < frame_count


@given(st.integers(1, 1000), st.integers(1, 64))
def test_positions_rise_exist_and_use_every_frame_of_a_short_clip(frame_count: int, wanted: int) -> None:
    positions = pick(frame_count, wanted)
    assert len(positions) == wanted
    assert list(positions) == sorted(positions)
    assert 0 == positions[0] <= positions[-1] < frame_count
    assert len(set(positions)) == min(frame_count, wanted)


@pytest.mark.parametrize(("frame_count", "wanted"), [(0, 8), (-1, 8), (8, 0)])
def test_nothing_can_be_picked_from_nothing(frame_count: int, wanted: int) -> None:
    with pytest.raises(ValueError, match=f"^{wanted} of {frame_count} frames can't be picked$"):
        pick(frame_count, wanted)


@pytest.mark.parametrize(
    ("framing", "message"),
    [
        (Framing(start_s=-1.0), "--start is -1 seconds. Give a time of 0 or more."),
        (Framing(end_s=-0.5), "--end is -0.5 seconds. Give a time of 0 or more."),
        (Framing(start_s=math.nan), "--start is nan seconds. Give a time of 0 or more."),
        (Framing(end_s=math.inf), "--end is inf seconds. Give a time of 0 or more."),
        (Framing(start_s=3.0, end_s=3.0), "--end 3 s is not after --start 3 s. Give a later --end."),
        (Framing(end_s=0.0), "--end 0 s is not after --start 0 s. Give a later --end."),
        (Framing(at_s=(1.0, -2.0)), "--at has -2 seconds. Give times from 0 on."),
        (Framing(at_s=(math.nan,)), "--at has nan seconds. Give times from 0 on."),
        (Framing(at_s=(1.0,), start_s=0.5), "--at can't be combined with --start and --end. Leave them out."),
        (Framing(at_s=(1.0,), end_s=0.5), "--at can't be combined with --start and --end. Leave them out."),
    ],
)
def test_a_framing_that_is_wrong_for_any_clip(framing: Framing, message: str) -> None:
    with pytest.raises(UsageError) as error:
        check_trim(framing)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("start_s", "end_s", "indices"),
    [
        (None, None, (0, 1, 2, 3, 4, 5, 6, 7)),
        (1.0, None, (2, 3, 4, 5, 6, 7)),
        (1.01, None, (3, 4, 5, 6, 7)),
        (None, 1.0, (0, 1)),
        (0.5, 2.0, (1, 2, 3)),
        (3.5, 100.0, (7,)),
    ],
)
def test_a_trim_takes_its_start_and_leaves_its_end(
    start_s: float | None, end_s: float | None, indices: tuple[int, ...]
) -> None:
    framing = Framing(start_s=start_s, end_s=end_s)
    assert in_play(TIMES_S, framing, duration_s=4.0, name="'a.mp4'") == indices


@pytest.mark.parametrize(
    ("start_s", "end_s", "message"),
    [
        (4.0, None, "--start 4 s is past the end of 'a.mp4', which lasts 4.00 s. Start earlier."),
        (90.0, 95.0, "--start 90 s is past the end of 'a.mp4', which lasts 4.00 s. Start earlier."),
        (3.6, None, "'a.mp4' has no frame between 3.6 s and the end. Choose a longer part."),
        (0.6, 0.9, "'a.mp4' has no frame between 0.6 s and 0.9 s. Choose a longer part."),
    ],
)
def test_a_trim_that_leaves_no_frame(start_s: float, end_s: float | None, message: str) -> None:
    with pytest.raises(MediaError) as error:
        in_play(TIMES_S, Framing(start_s=start_s, end_s=end_s), duration_s=4.0, name="'a.mp4'")
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("frame_count", "reported", "expected"),
    [
        (60, 0, pick(60)),
        (60, 60, pick(60)),
        (60, 64, pick(64)),  # its last position, 56, is there
        (60, 69, pick(60)),  # 60 isn't
        (60, 50, pick(60)),  # fewer than are there: those of the first fragment, say
        (3, 2, pick(3)),
    ],
)
def test_the_reported_count_gives_the_positions_where_they_exist(
    frame_count: int, reported: int, expected: tuple[int, ...]
) -> None:
    assert reference(frame_count, reported=reported) == expected


def test_shifted_positions_are_those_of_the_reported_count_where_they_exist() -> None:
    assert reference(60, reported=64, shift=0.4) == (3, 11, 19, 27, 35, 43, 51, 59)
    assert reference(60, reported=64, shift=0.5) == (3, 11, 18, 26, 33, 41, 48, 56)  # 60 of the 64 isn't there


def test_times_name_the_frames_that_a_player_would_show() -> None:
    framing = Framing(at_s=(3.9, 0.0, 0.49, 0.5, 0.0))
    assert choose(TIMES_S, framing, duration_s=4.0, name="'a.mp4'") == (7, 0, 0, 1, 0)
    with pytest.raises(MediaError) as error:
        shown_at(TIMES_S, 4.0, duration_s=4.0, name="'a.mp4'")
    assert str(error.value) == "--at 4 s is past the end of 'a.mp4', which lasts 4.00 s. Choose an earlier time."


@given(st.floats(0, 1e7, allow_nan=False), st.fractions(Fraction(1, 90_000), Fraction(1, 2)), st.booleans())
def test_the_first_tick_is_the_first_by_the_times_that_frames_get(
    time_s: float, base: Fraction, is_after: bool
) -> None:
    tick = first_tick(time_s, base, is_after=is_after)
    here_s, before_s = float(tick * base), float((tick - 1) * base)
    assert (here_s > time_s, before_s > time_s) == (True, False) if is_after else here_s >= time_s > before_s


def test_fewer_frames_than_the_model_sees_are_repeated_evenly() -> None:
    clip = Clip(path=Path("a.mp4"), kind="video", width=1, height=1, frame_count=9)
    pixels = np.arange(9, dtype=np.uint8).reshape(3, 1, 1, 3)
    frames = spread(Frames(clip=clip, pixels=pixels, times_s=(4.0, 1.0, 2.0)), "crop")
    assert frames.pixels[:, 0, 0, 0].tolist() == [0, 0, 0, 3, 3, 3, 6, 6]
    assert frames.times_s == (4.0, 4.0, 4.0, 1.0, 1.0, 1.0, 2.0, 2.0)
    with pytest.raises(UsageError) as error:
        spread(frames, "crop", wanted=7)
    assert str(error.value) == "8 frames are more than the 7 that the model sees. Name fewer."


@pytest.mark.parametrize(
    ("fit", "good", "bad"),
    [
        ("crop", (1000, 1), (1001, 1)),
        ("crop", (224, 224_000), (224, 224_001)),
        ("pad", (16_384, 5400), (5400, 16_385)),
        ("squash", (1, 262_144), (262_145, 341)),
    ],
)
def test_a_frame_that_grows_too_large_on_its_way_to_the_square_is_refused(
    fit: Fit, good: tuple[int, int], bad: tuple[int, int]
) -> None:
    def shown(width: int, height: int) -> Frames:
        clip = Clip(path=Path("a.png"), kind="image", width=width, height=height, frame_count=1)
        return spread(Frames(clip=clip, pixels=np.empty((1, height, width, 3), np.uint8), times_s=(0.0,)), fit)

    assert shown(*good).pixels.shape == (1, good[1], good[0], 3)
    with pytest.raises(MediaError) as error:
        shown(*bad)
    sentence = f"A frame of {bad[0]}x{bad[1]} is too long and thin for --fit {fit}."
    assert str(error.value) == f"{sentence} Cut a part out of it, or scale it down."
