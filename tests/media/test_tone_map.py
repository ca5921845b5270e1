"""HDR frames as an SDR display shows them, held against values that the standards themselves give."""

from __future__ import annotations

import math
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter

from tests.clips import Pixels, reference_eight, truth
from tests.media.zoo import encoded, hdr
from vllava_cli.media.sample import probe, sample
from vllava_cli.media.tone_map import write_sdr
from vllava_cli.nouns import Framing

PQ, HLG = 16, 18
FROM_BT709 = ((0.6274, 0.3293, 0.0433), (0.0691, 0.9195, 0.0114), (0.0164, 0.0880, 0.8956))
"""BT.2087, 4.1."""


def shown(transfer: int, *codes: float) -> list[int]:
    """What a frame of one colour, red, green and blue from 0 to 1, becomes."""
    frame = av.VideoFrame(32, 32, "gbrp12le")
    for plane, code in zip(frame.planes, (codes[1], codes[2], codes[0]), strict=True):
        np.frombuffer(plane, np.uint16)[:] = round(4095 * code)
    frame.color_trc = transfer
    pixels = np.zeros((32, 32, 3), np.uint8)
    write_sdr(frame, pixels, VideoReformatter())
    assert (pixels == pixels[0, 0]).all()
    found: list[int] = pixels[0, 0].tolist()
    return found


@pytest.mark.parametrize(
    ("transfer", "code", "grey"),
    [
        (PQ, 0.0, 0),
        (PQ, 0.3024, 73),  # 10 nits, BT.2408: 255 * (10 / 203) ** (1 / 2.4), BT.1886
        (PQ, 0.38, 108),  # a grey card of 18%, 26 nits in BT.2408
        (PQ, 0.5806, 230),  # 203 nits, the white of a page: by BT.2390 158.9 nits
        (PQ, 0.7518, 255),  # 1000 nits
        (PQ, 1.0, 255),  # 10000 nits
        (HLG, 0.0, 0),
        (HLG, 0.38, 108),
        (HLG, 0.5, 143),  # a twelfth of the scene's light: 1000 * (1 / 12) ** 1.2 nits, BT.2100
        (HLG, 0.75, 230),  # 203 nits
        (HLG, 1.0, 255),
    ],
)
def test_grey_is_as_bright_as_the_standards_say(transfer: int, code: float, grey: int) -> None:
    assert shown(transfer, code, code, code) == pytest.approx([grey] * 3, abs=1)


def pq(nits: float) -> float:
    """ST 2084, 5.2."""
    power = (nits / 10000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def hlg(light: float) -> float:
    """BT.2100, table 5: the signal of a share of the scene's light."""
    return math.sqrt(3 * light) if light <= 1 / 12 else 0.17883277 * math.log(12 * light - 0.28466892) + 0.55991073


@pytest.mark.parametrize("colour", [(80, 0, 0), (0, 80, 0), (0, 0, 80), (60, 40, 30), (20, 50, 80)])
def test_colours_of_bt709_keep_their_hue(colour: tuple[float, float, float]) -> None:
    """Light of less than 88 nits is below the knee of the curve: nothing but its code changes."""
    expected = [255 * (nits / 203) ** (1 / 2.4) for nits in colour]
    wide = [sum(share * nits for share, nits in zip(row, colour, strict=True)) for row in FROM_BT709]
    assert shown(PQ, *map(pq, wide)) == pytest.approx(expected, abs=8)
    luminance = (0.2627 * wide[0] + 0.6780 * wide[1] + 0.0593 * wide[2]) / 1000
    scene = [nits / 1000 / luminance ** (0.2 / 1.2) for nits in wide]
    assert shown(HLG, *map(hlg, scene)) == pytest.approx(expected, abs=8)


@pytest.mark.parametrize(("name", "transfer"), [("smpte2084", "PQ"), ("arib-std-b67", "HLG")])
def test_a_file_is_tone_mapped_and_probe_says_so(tmp_path: Path, name: str, transfer: str) -> None:
    path = encoded(hdr(name))(tmp_path / "a.mp4", 24)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    pictures: list[Pixels] = [np.empty((48, 64, 3), np.uint8) for _ in frames]
    for frame, picture in zip(frames, pictures, strict=True):
        write_sdr(frame, picture, VideoReformatter())
    got = sample(path, Framing())
    assert (got.pixels == reference_eight(pictures)).all()
    assert (got.clip.transfer, probe(path, is_full=True).transfer) == (transfer, transfer)
    plain = truth(path)
    assert not np.array_equal(got.pixels[0], plain.pictures([0])[0])
