from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vllava_cli.errors import MediaError, UsageError
from vllava_cli.media.decoder import protocol
from vllava_cli.nouns import (
    Clip,
    ClipWindows,
    Frames,
    Framing,
    MediaKind,
    SpokenLine,
    Subtitles,
    Window,
)

PATH = Path("a.mp4")
of_every_call = pytest.mark.parametrize("call", ["probe", "header", "documented"])
REQUEST = protocol.Request(call="sample", path=PATH, folder="/", cpu_s=1)
CLIP = Clip(
    path=PATH,
    kind="video",
    width=4,
    height=2,
    frame_count=9,
    duration_s=0.9,
    fps=10.0,
    codec="h264",
    container="mp4",
    pixel_format="yuv420p",
    is_rate_constant=True,
    way="seek",
    way_reason="The index is whole.",
    rotation=90,
    faults=("'caf\udce9' is odd.",),
)
PIXELS = np.arange(8 * 2 * 4 * 3, dtype=np.uint8).reshape(8, 2, 4, 3)
FRAMES = Frames(clip=CLIP, pixels=PIXELS, times_s=tuple(index / 10 for index in range(8)))


def answer(line: bytes, rest: bytes = b"", *, request: protocol.Request = REQUEST, max_bytes: int = 1 << 20) -> Any:
    return protocol.read_reply(io.BytesIO(line + rest), request, max_bytes=max_bytes)


def test_frames_arrive_as_they_were_sent() -> None:
    frames = answer(protocol.result_line(FRAMES), PIXELS.tobytes())
    assert (frames.clip, frames.times_s) == (CLIP, FRAMES.times_s)
    assert (frames.pixels == PIXELS).all()


def test_frames_of_several_sizes_keep_them() -> None:
    sizes = ((4, 1), (1, 2), *[(2, 2)] * 6)
    frames = answer(protocol.result_line(replace(FRAMES, sizes=sizes)), PIXELS.tobytes())
    assert frames.sizes == sizes
    assert [picture.shape for picture in frames.pictures] == [(1, 4, 3), (2, 1, 3), *[(2, 2, 3)] * 6]
    assert (frames.pictures[1] == PIXELS[1, :, :1]).all()
    same = replace(FRAMES, pixels=PIXELS[[0] * 8, :1], times_s=(0.0,) * 8, sizes=((4, 1),) * 8)
    pictures = protocol.pictures(same)
    frames = answer(protocol.result_line(same, pictures), pictures.tobytes())
    assert (frames.pixels.shape, frames.sizes) == ((8, 1, 4, 3), same.sizes)


def test_frames_that_are_all_the_same_cross_once_and_share_their_memory() -> None:
    same = replace(FRAMES, pixels=PIXELS[[0] * 8], times_s=(0.0,) * 8)
    pictures = protocol.pictures(same)
    assert pictures.shape == (1, 2, 4, 3)
    frames = answer(protocol.result_line(same, pictures), pictures.tobytes())
    assert (frames.clip, frames.times_s, frames.pixels.shape) == (CLIP, same.times_s, (8, 2, 4, 3))
    assert (frames.pixels == same.pixels).all()
    assert all(np.shares_memory(frames.pixels[0], other) for other in frames.pixels)


def test_frames_that_differ_all_cross() -> None:
    for times_s in (FRAMES.times_s, (0.0,) * 8):
        assert protocol.pictures(replace(FRAMES, times_s=times_s)).tobytes() == PIXELS.tobytes()


def test_frames_are_as_large_as_their_clip_unless_tiles_were_asked_for() -> None:
    tiles, line = PIXELS[:, :, :2], protocol.result_line(replace(FRAMES, pixels=PIXELS[:, :, :2]))
    with pytest.raises(protocol.ProtocolError):
        answer(line, tiles.tobytes())
    frames = answer(line, tiles.tobytes(), request=replace(REQUEST, tiles="whole"))
    assert (frames.clip, frames.pixels.tolist()) == (CLIP, tiles.tolist())


def test_an_image_has_one_frame() -> None:
    image = replace(CLIP, kind="image", duration_s=None, fps=None, is_rate_constant=None, way=None)
    frames = answer(protocol.result_line(Frames(clip=image, pixels=PIXELS[:1], times_s=(0.0,))), PIXELS.tobytes())
    assert (frames.clip, frames.pixels.shape) == (image, (1, 2, 4, 3))


@of_every_call
def test_facts_arrive_as_they_were_sent(call: protocol.Call) -> None:
    assert answer(protocol.result_line(CLIP), request=replace(REQUEST, call=call)) == CLIP


def test_only_a_header_may_leave_the_size_open() -> None:
    unknown = replace(CLIP, width=0, height=0)
    assert answer(protocol.result_line(unknown), request=replace(REQUEST, call="header")) == unknown
    with pytest.raises(protocol.ProtocolError):
        answer(protocol.result_line(unknown), request=replace(REQUEST, call="probe"))


@pytest.mark.parametrize("error", [MediaError("'a' is odd.\N{SNOWMAN}"), UsageError("--start is wrong.")])
def test_errors_arrive_as_they_were_sent(error: Exception) -> None:
    with pytest.raises(type(error)) as caught:
        answer(protocol.error_line(error))
    assert (type(caught.value), str(caught.value)) == (type(error), str(error))


def test_a_lack_of_memory_arrives_whatever_was_made_of_it() -> None:
    error = MediaError("'a' is odd.")
    error.__cause__ = MemoryError()
    with pytest.raises(protocol.OutOfMemoryError):
        answer(protocol.error_line(error))


def test_a_bug_arrives_with_its_traceback_but_without_control_characters() -> None:
    with pytest.raises(protocol.DecoderBugError) as caught:
        answer(protocol.error_line(TypeError("\x1b[31m\x9b\u202e")))
    assert str(caught.value) == "TypeError: ?[31m??\n"


@pytest.mark.parametrize("end", [0, 1, 191])
def test_an_answer_that_breaks_off_is_an_end_of_the_stream(end: int) -> None:
    line = protocol.result_line(FRAMES)
    with pytest.raises(EOFError):
        answer(line, PIXELS.tobytes()[:end])
    with pytest.raises(EOFError):
        answer(line[: end or -1] if end < len(line) else line[:-1])


def frames_with(**changes: object) -> bytes:
    facts = json.loads(protocol.result_line(FRAMES))
    facts["clip"].update({name: value for name, value in changes.items() if name in facts["clip"]})
    facts.update({name: value for name, value in changes.items() if name not in facts["clip"]})
    return json.dumps(facts).encode() + b"\n"


def frames_of_sizes(first: list[int], others: list[int] | None = None, count: int = 8) -> bytes:
    sizes = [first, *[others or [4, 2]] * (count - 1)]
    return json.dumps(json.loads(protocol.result_line(FRAMES)) | {"sizes": sizes}).encode() + b"\n"


def without(name: str) -> bytes:
    facts = json.loads(protocol.result_line(FRAMES))
    facts.pop(name, None)
    facts.get("clip", {}).pop(name, None)
    return json.dumps(facts).encode() + b"\n"


FORGED = {
    "no JSON": b"hello\n",
    "not UTF-8": b'{"is": "\xff"}\n',
    "an empty line": b"\n",
    "a deep nest": b"[" * 100_000 + b"\n",
    "a number of 5000 digits": b'{"is": ' + b"9" * 5000 + b"}\n",
    "another kind": b'{"is": "pickle"}\n',
    "an answer to another question": protocol.result_line(CLIP),
    "an error that is none of ours": b'{"is": "SystemExit", "sentence": "no"}\n',
    "a sentence without an end": protocol.error_line(MediaError("x" * 300_000)),
    "a traceback that is none": b'{"is": "bug", "traceback": null}\n',
    "no clip": without("clip"),
    "no times": without("times_s"),
    "no width at all": frames_with(width=0),
    "a negative height": frames_with(height=-2),
    "a width of true": frames_with(width=True),
    "more pixels than any picture": frames_with(width=100_000, height=100_000),
    "more bytes than there may be": frames_with(width=5000, height=5000, shape=[8, 5000, 5000]),
    "more bytes than there may be of one picture": frames_with(width=5000, height=5000, shape=[1, 5000, 5000]),
    "other pixels than its clip's": frames_with(shape=[8, 4, 2]),
    "two pictures": frames_with(shape=[2, 2, 4]),
    "too few sizes": frames_of_sizes([4, 2], count=7),
    "a size with three sides": frames_of_sizes([4, 2, 1]),
    "a size of nothing": frames_of_sizes([0, 1]),
    "a size beyond the pixels": frames_of_sizes([5, 1]),
    "no frame as large as the pixels": frames_of_sizes([3, 2], [3, 2]),
    "no picture": frames_with(shape=[0, 2, 4]),
    "a picture of true": frames_with(shape=[True, 2, 4]),
    "pictures without a height": frames_with(shape=[8, 4]),
    "a huge count": frames_with(frame_count=1 << 63),
    "another medium": frames_with(kind="sound"),
    "another way": frames_with(way="fly"),
    "a slant": frames_with(rotation=45),
    "a rate of 1": frames_with(is_rate_constant=1),
    "a fault of 5": frames_with(faults=[5]),
    "a length of NaN": frames_with(duration_s=float("nan")),
    "an infinite rate": frames_with(fps=float("inf")),
    "a rate too large for a float": frames_with().replace(b'"fps": 10.0', b'"fps": 1e999'),
    "no frame": frames_with(times_s=[]),
    "nine frames": frames_with(times_s=[0.0] * 9),
    "a million frames": frames_with(times_s=[0.0] * 300_000),
    "a time of NaN": frames_with(times_s=[float("nan")]),
    "an endless line": b"x" * (5 << 20),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_answer_is_refused(name: str) -> None:
    with pytest.raises(protocol.ProtocolError):
        answer(FORGED[name], bytes(1000))


FORGED_FACTS = {
    "frames": protocol.result_line(FRAMES),
    "more pixels than any picture": protocol.result_line(replace(CLIP, width=100_000, height=100_000)),
    "no clip": b'{"is": "clip"}\n',
    "a clip of 5": b'{"is": "clip", "clip": 5}\n',
    "a negative width": protocol.result_line(replace(CLIP, width=-1)),
    "a huge count": protocol.result_line(replace(CLIP, frame_count=1 << 63)),
    "a width of true": protocol.result_line(replace(CLIP, width=True)),
    "another medium": protocol.result_line(CLIP).replace(b'"video"', b'"sound"'),
}


@of_every_call
@pytest.mark.parametrize("name", FORGED_FACTS)
def test_forged_facts_are_refused(name: str, call: protocol.Call) -> None:
    with pytest.raises(protocol.ProtocolError):
        answer(FORGED_FACTS[name], PIXELS.tobytes(), request=replace(REQUEST, call=call))


@of_every_call
@pytest.mark.parametrize("place", range(0, len(protocol.result_line(CLIP)) - 1, 3))
def test_facts_with_a_byte_missing_or_changed_are_facts_or_refused(place: int, call: protocol.Call) -> None:
    line = protocol.result_line(CLIP)
    for forged in (line[:place] + line[place + 1 :], line[:place] + b"9" + line[place + 1 :], line[:place] + b"\n"):
        try:
            found = answer(forged, request=replace(REQUEST, call=call))
        except protocol.ProtocolError:
            continue
        assert isinstance(found, Clip) and found.path == PATH


def test_as_many_frames_come_back_as_times_were_asked_for() -> None:
    request = replace(REQUEST, framing=Framing(at_s=(0.3, 0.1)))
    two = Frames(clip=CLIP, pixels=PIXELS[:2], times_s=(0.3, 0.1))
    assert answer(protocol.result_line(two), PIXELS.tobytes(), request=request).times_s == (0.3, 0.1)
    with pytest.raises(protocol.ProtocolError):
        answer(protocol.result_line(FRAMES), PIXELS.tobytes(), request=request)


SUBTITLES = Subtitles(
    source="a.srt",
    lines=(SpokenLine(start_s=0.5, end_s=1.0, text="caf\xe9"), SpokenLine(start_s=0.5, end_s=0.5, text="b")),
    faults=("'a.srt' is odd.",),
)
HEARD = replace(REQUEST, call="subtitles")


def test_subtitles_arrive_as_they_were_sent() -> None:
    assert answer(protocol.result_line(SUBTITLES), request=HEARD) == SUBTITLES


FORGED_LINES: dict[str, Any] = {
    "no text": [{"start_s": 0, "end_s": 1, "text": ""}],
    "no end": [{"start_s": 0, "text": "a"}],
    "ends before it begins": [{"start_s": 2, "end_s": 1, "text": "a"}],
    "negative": [{"start_s": -1, "end_s": 1, "text": "a"}],
    "infinite": [{"start_s": 0, "end_s": float("inf"), "text": "a"}],
    "not in order": [{"start_s": start, "end_s": 9, "text": "a"} for start in (2, 1)],
    "too many": [{"start_s": 0, "end_s": 1, "text": "a"}] * (protocol.MOST_LINES + 1),
    "too long": [{"start_s": 0, "end_s": 1, "text": "a" * ((2 << 20) + 1)}],
    "no list": {"start_s": 0},
}


@pytest.mark.parametrize("name", FORGED_LINES)
def test_forged_lines_are_refused(name: str) -> None:
    line = json.dumps({"is": "subtitles", "source": "", "lines": FORGED_LINES[name], "faults": []}).encode() + b"\n"
    with pytest.raises(protocol.ProtocolError):
        answer(line, request=HEARD)


def test_subtitles_answer_only_the_call_for_them() -> None:
    for line, request in ((protocol.result_line(SUBTITLES), REQUEST), (protocol.result_line(CLIP), HEARD)):
        with pytest.raises(protocol.ProtocolError):
            answer(line, request=request)


ASKED = replace(REQUEST, call="windows", framing=Framing(start_s=0.2, end_s=9.0))
WINDOWS = (
    Window(start_s=0.2, end_s=0.5, title="Caf\u00e9", is_still=True),
    Window(start_s=0.4, end_s=0.9, is_held=True),
)


def test_windows_arrive_as_they_were_sent() -> None:
    divided = ClipWindows(clip=CLIP, windows=WINDOWS)
    assert answer(protocol.result_line(divided), request=ASKED) == divided
    image = ClipWindows(clip=replace(CLIP, kind="image", duration_s=None))
    assert answer(protocol.result_line(image), request=ASKED) == image


@pytest.mark.parametrize(
    ("windows", "kind"),
    [
        ((), "video"),
        (WINDOWS[:1], "image"),
        (WINDOWS[::-1], "video"),
        ((replace(WINDOWS[0], start_s=0.1),), "video"),
        ((replace(WINDOWS[0], end_s=0.91),), "video"),
        ((replace(WINDOWS[0], end_s=0.2),), "video"),
        ((replace(WINDOWS[0], start_s=float("nan")),), "video"),
        ((replace(WINDOWS[0], is_held=1),), "video"),
        ((replace(WINDOWS[0], title="\x1b[2J"),), "video"),
        ((replace(WINDOWS[0], title="a\u202eb"),), "video"),
        ((replace(WINDOWS[0], title="x" * 121),), "video"),
        (WINDOWS[:1] * 100_001, "video"),
    ],
)
def test_forged_windows_are_refused(windows: tuple[Window, ...], kind: MediaKind) -> None:
    with pytest.raises(protocol.ProtocolError):
        answer(protocol.result_line(ClipWindows(clip=replace(CLIP, kind=kind), windows=windows)), request=ASKED)
    for call in ("sample", "probe", "window"):
        with pytest.raises(protocol.ProtocolError):
            answer(protocol.result_line(ClipWindows(clip=CLIP, windows=WINDOWS)), request=replace(ASKED, call=call))
