from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.clips import write_clip
from tests.media.timeline.reels import ENCODINGS, drawn, scene, write
from tests.media.zoo import CLOSED, timed
from vllava_cli.errors import MediaError, UsageError
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.timeline.windows import chapter_windows
from vllava_cli.nouns import Framing, Window, Windowing

WHOLE = Framing()
CHAPTERS = Windowing(by="chapters")
SECONDS = Windowing(every_s=1.0)


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderClient]:
    with DecoderClient() as client:
        yield client


def with_chapters(path: Path, *chapters: tuple[float, float, str]) -> Path:
    plain = write_clip(Path("plain.mp4"), 50, encoding=CLOSED)
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        milliseconds = Fraction(1, 1000)
        rows = [
            {"id": place, "start": int(start * 1000), "end": int(end * 1000), "time_base": milliseconds}
            | {"metadata": {"title": title}}
            for place, (start, end, title) in enumerate(chapters)
        ]
        target.set_chapters(rows)
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return path


def rows(windows: tuple[Window, ...]) -> list[tuple[float, float, str]]:
    return [(round(window.start_s, 6), round(window.end_s, 6), window.title) for window in windows]


@pytest.mark.parametrize(("name", "end_s"), [("a.mp4", 2), ("a.mkv", 1.5)])
def test_chapters_are_windows(decoder: DecoderClient, name: str, end_s: float) -> None:
    """In an mp4, a chapter ends where the next one begins."""
    path = with_chapters(Path(name), (0, 1.5, "Be\x1b[31mgin\nhere"), (2, 4, "Middle"), (4, 9, ""))
    assert rows(decoder.windows(CHAPTERS, WHOLE, path).windows) == [
        (0, end_s, "Be [31mgin here"),
        (2, 4, "Middle"),
        (4, 5, ""),
    ]
    part = Framing(start_s=1, end_s=2.5)
    assert rows(decoder.windows(CHAPTERS, part, path).windows) == [(1, end_s, "Be [31mgin here"), (2, 2.5, "Middle")]


def test_chapters_that_overlap_are_put_right() -> None:
    chapters = [(40, 90, "C"), (0, 60, ""), (40, 80, "B"), (85, 85, "empty"), (95, 99, "last"), (-5, 10, "early")]
    given = [Window(start_s=start, end_s=end, title=title) for start, end, title in chapters]
    assert rows(chapter_windows(given, 5, 97)) == [(5, 40, ""), (40, 80, "B"), (95, 97, "last")]


def test_a_window_without_a_frame_shows_the_frame_before(decoder: DecoderClient) -> None:
    path = timed(CLOSED, lambda index: (0, 400, 3700, 3800)[index])(Path("a.mkv"), 4)
    windows = decoder.windows(SECONDS, WHOLE, path).windows
    assert [(window.start_s, window.is_held) for window in windows] == [(0, False), (1, True), (2, True), (3, False)]
    assert [decoder.window(path, window.framing(WHOLE)).times_s[0] for window in windows] == [0, 0.4, 0.4, 3.7]


def test_scenes_are_windows_and_still_ones_are_told_if_asked_for(decoder: DecoderClient) -> None:
    path = write(Path("a.mp4"), [*[drawn(180, 20)] * 80, *scene(1, 30)], ENCODINGS["even.mp4"])
    scenes = decoder.windows(Windowing(by="scenes"), WHOLE, path).windows
    assert [(window.start_s, window.end_s) for window in scenes] == [(0, 8), (8, 11)]
    for tells, still in ((True, [2.0, 4.0]), (False, [])):
        found = decoder.windows(Windowing(every_s=2, tells_still=tells), WHOLE, path).windows
        assert [window.start_s for window in found if window.is_still and window.start_s < 6] == still


@pytest.mark.parametrize(
    ("windowing", "framing", "expected"),
    [
        (SECONDS, WHOLE, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]),
        (Windowing(every_s=2), WHOLE, [(0, 2), (2, 4), (4, 5)]),
        (Windowing(every_s=2.4), WHOLE, [(0, 2.4), (2.4, 5)]),
        (Windowing(every_s=2, overlap_s=0.5), Framing(start_s=1), [(1, 3), (2.5, 4.5), (4, 5)]),
        (Windowing(every_s=2, overlap_s=0.5), Framing(end_s=4.9), [(0, 2), (1.5, 3.5), (3, 4.9)]),
        (Windowing(every_s=2, overlap_s=1.5), Framing(start_s=2), [(2, 4), (2.5, 4.5), (3, 5)]),
        (SECONDS, Framing(start_s=3.5, end_s=60), [(3.5, 4.5), (4.5, 5)]),
        (Windowing(every_s=60), Framing(start_s=0.25, end_s=4), [(0.25, 4)]),
    ],
)
def test_windows_lie_in_the_part_and_in_the_clip(
    decoder: DecoderClient, windowing: Windowing, framing: Framing, expected: list[tuple[float, float]]
) -> None:
    found = decoder.windows(windowing, framing, write_clip(Path("a.mp4"), 50, encoding=CLOSED))
    assert [row[:2] for row in rows(found.windows)] == expected
    assert (found.clip.kind, found.clip.frame_count, found.clip.duration_s) == ("video", 50, 5.0)


@pytest.mark.parametrize(
    ("windowing", "framing", "message"),
    [
        (
            Windowing(every_s=0.00001),
            WHOLE,
            "'a.mp4' has 500,000 windows of 1e-05 s, more than 100,000. Give a longer time to --every.",
        ),
        (
            Windowing(every_s=1, overlap_s=0.99999),
            WHOLE,
            "'a.mp4' has 400,002 windows of 1 s, more than 100,000. "
            "Give a longer time to --every or a shorter --overlap.",
        ),
        (CHAPTERS, WHOLE, "'a.mp4' names no chapters. Divide it with --every 30s or --scenes instead."),
        (SECONDS, Framing(start_s=5), "--start 5 s is past the end of 'a.mp4', which lasts 5.00 s. Start earlier."),
        (
            SECONDS,
            Framing(at_s=(1.0,)),
            "--at can't be combined with --every, --scenes and --at-chapters. Leave it out.",
        ),
        (SECONDS, Framing(start_s=2, end_s=1), "--end 1 s is not after --start 2 s. Give a later --end."),
    ],
)
def test_why_a_clip_is_not_divided(
    decoder: DecoderClient, windowing: Windowing, framing: Framing, message: str
) -> None:
    with pytest.raises((MediaError, UsageError)) as caught:
        decoder.windows(windowing, framing, write_clip(Path("a.mp4"), 50, encoding=CLOSED))
    assert str(caught.value) == message


def test_a_part_between_chapters_is_an_error(decoder: DecoderClient) -> None:
    path = with_chapters(Path("a.mkv"), (0, 1, "A"), (4, 5, "B"))
    with pytest.raises(MediaError, match=r"'a\.mkv' has no chapter between 2 s and 3 s\. Choose a longer part\."):
        decoder.windows(CHAPTERS, Framing(start_s=2, end_s=3), path)
