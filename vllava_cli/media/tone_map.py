"""Converts HDR frames and photos, PQ or HLG as phones record them, to what an SDR display shows: RGB of BT.709, 8 bits.

The steps are those of the standards: code → light of a display of 1000 nits (BT.2100) → light up to the white of SDR,
203 nits (BT.2408), by the curve of BT.2390 → colours of BT.709 (BT.2087) → code of an SDR display (BT.1886).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import Colorspace, VideoReformatter

from vllava_cli.nouns import Transfer

Floats = npt.NDArray[np.floating]

TRANSFERS: dict[int, Transfer] = {16: "PQ", 18: "HLG"}
"""The numbers of the HDR transfer characteristics in ITU-T H.273, which are FFmpeg's, too."""

PEAK, WHITE = 1000.0, 203.0
"""Nits: brighter light than the first is cut off; the second is the brightest that an SDR display shows."""
_STEPS = 4095
"""The last place of a table; codes have 12 bits."""
_EIGHT_BITS = np.arange(256) * _STEPS // 255
"""The places in a table of the codes of 8 bits."""
_ROWS = 16
"""The rows that are converted at a time, so that they stay in the processor's cache."""
_UNSPECIFIED = 2
_LUMINANCE = (0.2627, 0.6780, 0.0593)
"""The shares of red, green and blue in the luminance, BT.2020."""
_TO_BT709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))
"""Linear BT.2020 → linear BT.709, BT.2087."""


def write_sdr(frame: VideoFrame, target: npt.NDArray[np.uint8], reformatter: VideoReformatter) -> None:
    """Writes an HDR frame into `target`, [H, W, 3]; YUV without a named matrix is taken for BT.2020's."""
    height, width, _ = target.shape
    matrix = Colorspace.BT2020 if frame.colorspace == _UNSPECIFIED else None
    planar = reformatter.reformat(frame, format="gbrp12le", src_colorspace=matrix)
    green, blue, red = (_codes(plane)[:height, :width] for plane in planar.planes)
    transfer = TRANSFERS[frame.color_trc]
    _write((red, green, blue), target, transfer, _light_of(transfer))


def sdr_of(pixels: npt.NDArray[np.uint8], transfer: Transfer) -> npt.NDArray[np.uint8]:
    """Converts an HDR picture: [H, W, C] → [H, W, C]; a channel after red, green and blue stays as it is."""
    shown = pixels.copy()
    _write([pixels[..., place] for place in range(3)], shown, transfer, _light_of(transfer)[_EIGHT_BITS])
    return shown


def _write(
    codes: Sequence[npt.NDArray[np.unsignedinteger]], target: npt.NDArray[np.uint8], transfer: Transfer, light: Floats
) -> None:
    """Writes red, green and blue into `target`; `light` is the table of what their codes stand for."""
    code = _sdr_codes()
    for top in range(0, len(target), _ROWS):
        rows = slice(top, top + _ROWS)
        channels = [light.take(channel[rows], mode="clip") for channel in codes]
        if transfer == "HLG":
            channels = _displayed(channels)
        for place, shares in enumerate(_TO_BT709):
            target[rows, :, place] = code.take(_places(_sum(channels, shares)), mode="clip")


def _codes(plane: VideoPlane) -> npt.NDArray[np.uint16]:
    return np.frombuffer(plane, "<u2").reshape(-1, plane.line_size // 2)  # type: ignore[call-overload, no-any-return]


@cache
def _light_of(transfer: Transfer) -> Floats:
    """Makes the table of the light that codes stand for: with PQ in shares of WHITE, with HLG of the scene's most."""
    codes = np.linspace(0, 1, _STEPS + 1)
    if transfer == "PQ":
        return _dimmed(_pq_nits(codes)).astype(np.float32)
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(codes <= 0.5, codes**2 / 3, (np.exp((codes - c) / a) + b) / 12).astype(np.float32)


@cache
def _dimmed_of() -> Floats:
    """Makes the table of light as a share of WHITE; its places are square roots of shares of PEAK."""
    return _dimmed(np.linspace(0, 1, _STEPS + 1) ** 2 * PEAK).astype(np.float32)


@cache
def _gains() -> Floats:
    """Makes the table of luminance ** 0.2; its places are square roots of luminance."""
    return (np.linspace(0, 1, _STEPS + 1) ** 0.4).astype(np.float32)


@cache
def _sdr_codes() -> npt.NDArray[np.uint8]:
    """Makes the table of BT.1886's codes, 0 to 255; its places are square roots of shares of WHITE."""
    roots = np.linspace(0, 1, _STEPS + 1)
    return np.round(255 * roots ** (2 / 2.4)).astype(np.uint8)


def _displayed(scene: list[Floats]) -> list[Floats]:
    """Applies HLG's system gamma, 1.2, to the luminance of a scene, and then the curve; returns shares of WHITE."""
    gain = _gains().take(_places(_sum(scene, _LUMINANCE)), mode="clip")
    return [_dimmed_of().take(_places(channel * gain), mode="clip") for channel in scene]


def _sum(channels: list[Floats], shares: tuple[float, ...]) -> Floats:
    total = channels[0] * np.float32(shares[0])
    for channel, share in zip(channels[1:], shares[1:], strict=True):
        total += channel * np.float32(share)
    return total


def _places(light: Floats) -> npt.NDArray[np.uint16]:
    """Returns the places in a table of square roots, for shares of 0 to 1; what is outside is cut off."""
    roots = np.sqrt(np.clip(light, 0, 1))
    return (roots * np.float32(_STEPS) + np.float32(0.5)).astype(np.uint16)


def _dimmed(nits: Floats) -> Floats:
    """Reduces light to shares of WHITE by the curve of BT.2390, 5.4.1: dark light stays, bright light is squeezed."""
    white, peak = _pq_codes(np.array([WHITE, PEAK]))
    most = white / peak
    knee = 1.5 * most - 0.5
    codes = np.minimum(_pq_codes(nits) / peak, 1)
    t = np.maximum(codes - knee, 0) / (1 - knee)
    bend = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    return _pq_nits(np.where(codes < knee, codes, bend) * peak) / WHITE


_M1, _M2 = 2610 / 16384, 2523 / 32
_C1, _C2, _C3 = 3424 / 4096, 2413 / 128, 2392 / 128


def _pq_nits(codes: Floats) -> Floats:
    """SMPTE ST 2084: codes from 0 to 1 → nits."""
    root = codes ** (1 / _M2)
    nits: Floats = 10000 * (np.maximum(root - _C1, 0) / (_C2 - _C3 * root)) ** (1 / _M1)
    return nits


def _pq_codes(nits: Floats) -> Floats:
    """SMPTE ST 2084: nits → codes from 0 to 1."""
    power = (nits / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2
