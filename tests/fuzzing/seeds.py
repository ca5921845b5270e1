"""A small real file of every container and codec that is read, the same bytes whenever they are made."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from PIL import Image

from tests.clips import Encoding, picture, write_animation, write_clip, write_sound
from tests.media.heif import IROT, coded, grid, sequence, write_heif

FRAMES = 16
LONG_FRAMES = 60
"""With groups of six pictures this is enough for seeking to pay."""


@dataclass(frozen=True, kw_only=True)
class Seed:
    """A file's name and its bytes."""

    name: str
    data: bytes


def _video(
    codec: str,
    options: str = "",
    *,
    container: str = "",
    pix_fmt: str = "yuv420p",
    fps: int = 10,
    movflags: str = "",
    rotation: int = 0,
    aspect: Fraction | None = None,
) -> Encoding:
    """`options` as "g=6 bf=2". One thread, and neither the time nor random numbers in the file."""
    pairs = (option.partition("=")[::2] for option in f"flags=+bitexact threads=1 {options}".split())
    return Encoding(
        codec=codec,
        container=container,
        pix_fmt=pix_fmt,
        fps=fps,
        rotation=rotation,
        aspect=aspect,
        options=dict(pairs),
        muxer_options={"fflags": "+bitexact"} | ({"movflags": movflags} if movflags else {}),
    )


_H264 = "g=6 bf=2 rc-lookahead=0"  # looking ahead, x264 encodes tiny pictures otherwise each time
_OPEN = f"{_H264} x264-params=open-gop=1"
_HEVC = "g=6 x265-params=log-level=none:pools=none:frame-threads=1"
_VPX = "g=6 deadline=realtime cpu-used=8"
_AV1 = "g=6 preset=12 svtav1-params=lp=1"

_VIDEOS: dict[str, Encoding] = {
    "h264.mp4": _video("libx264", _H264),
    "h264-faststart.mp4": _video("libx264", _H264, movflags="faststart"),
    "h264-fragments.mp4": _video("libx264", _H264, movflags="frag_keyframe+empty_moov"),
    "h264-open.mp4": _video("libx264", _OPEN),
    "h264-turned.mov": _video("libx264", _H264, rotation=90, aspect=Fraction(64, 45)),
    "h264.mkv": _video("libx264", _H264),
    "h264-open.mkv": _video("libx264", _OPEN),
    "h264.avi": _video("libx264", f"{_H264} bf=0"),
    "h264.ts": _video("libx264", _H264),
    "h264.h264": _video("libx264", _H264, container="h264"),
    "h264.flv": _video("libx264", _H264),
    "hevc.mp4": _video("libx265", _HEVC),
    "hevc.mkv": _video("libx265", _HEVC),
    "hevc.hevc": _video("libx265", _HEVC, container="hevc"),
    "av1.mp4": _video("libsvtav1", _AV1),
    "av1.webm": _video("libsvtav1", _AV1),
    "av1.obu": _video("libsvtav1", _AV1, container="obu"),
    "av1.ivf": _video("libsvtav1", _AV1, container="ivf"),
    "vp8.webm": _video("libvpx", f"{_VPX} auto-alt-ref=1 lag-in-frames=8"),
    "vp8.ogg": _video("libvpx", _VPX, container="ogg"),
    "vp9.webm": _video("libvpx-vp9", _VPX),
    "vp9-alpha.webm": _video("libvpx-vp9", f"{_VPX} auto-alt-ref=0", pix_fmt="yuva420p"),
    "vp9.mp4": _video("libvpx-vp9", _VPX),
    "vp9.ivf": _video("libvpx-vp9", _VPX, container="ivf"),
    "mpeg4.mp4": _video("mpeg4", "g=6"),
    "mpeg4.avi": _video("mpeg4", "g=6 bf=2"),
    "mpeg4.m4v": _video("mpeg4", "g=6", container="m4v"),
    "mpeg4.nut": _video("mpeg4", "g=6"),
    "mpeg2.mpg": _video("mpeg2video", "g=6 bf=2", fps=25),
    "mpeg2.ts": _video("mpeg2video", "g=6", fps=25),
    "mpeg2.m2v": _video("mpeg2video", "g=6", fps=25, container="mpeg2video"),
    "mpeg2.mxf": _video("mpeg2video", "g=1", fps=25),
    "mpeg1.mpg": _video("mpeg1video", "g=6", fps=25),
    "wmv2.wmv": _video("wmv2", "g=6", container="asf"),
    "msmpeg4.avi": _video("msmpeg4", "g=6"),
    "mjpeg.avi": _video("mjpeg", pix_fmt="yuvj420p"),
    "mjpeg.mjpeg": _video("mjpeg", pix_fmt="yuvj420p", container="mjpeg"),
    "prores.mov": _video("prores_ks", pix_fmt="yuv422p10le"),
    "jpeg2000.mov": _video("jpeg2000", pix_fmt="rgb24"),
    "qtrle.mov": _video("qtrle", pix_fmt="argb"),
    "flv1.flv": _video("flv", "g=6"),
    "h263.h263": _video("h263", "g=6"),
    "ffv1.mkv": _video("ffv1"),
    "ffv1-alpha.mkv": _video("ffv1", pix_fmt="bgra"),
    "ffv1-10.mkv": _video("ffv1", "color_trc=smpte2084", pix_fmt="yuv420p10le"),
    "huffyuv.avi": _video("huffyuv", pix_fmt="rgb24"),
    "raw.avi": _video("rawvideo", pix_fmt="bgr24"),
    "raw.y4m": _video("rawvideo", container="yuv4mpegpipe"),
    "gif.gif": _video("gif", pix_fmt="rgb8"),
    "apng.png": _video("apng", pix_fmt="rgb24", container="apng"),
}
_LONG = (
    "h264.mp4",
    "h264-open.mp4",
    "h264.mkv",
    "h264.ts",
    "hevc.mp4",
    "av1.webm",
    "vp9.webm",
    "vp8.webm",
    "vp8.ogg",
    "mpeg4.mp4",
    "mpeg2.ts",
)
_AVIF_TIMES = re.compile(rb"((?:mvhd|tkhd|mdhd)\x01...).{16}", re.DOTALL)
_STILLS = ("png", "jpg", "webp", "gif", "bmp", "tiff", "avif", "ppm", "jp2")
_ANIMATIONS = ("webp", "avif", "gif", "png")


def make_seeds(folder: Path) -> tuple[Seed, ...]:
    """Makes them all in `folder`, a megabyte."""
    os.environ.setdefault("SVT_LOG", "1")  # else the AV1 encoder talks
    makers: dict[str, Callable[[Path], object]] = {
        **{name: _maker(encoding, FRAMES) for name, encoding in _VIDEOS.items()},
        **{f"long-{name}": _maker(_VIDEOS[name], LONG_FRAMES) for name in _LONG},
        **{f"still.{suffix}": _write_still for suffix in _STILLS},
        **{f"animation.{suffix}": _write_animation for suffix in _ANIMATIONS},
        "still.heic": lambda path: write_heif(path, grid(picture(5), 2, 2, IROT[3])),
        "burst.heic": lambda path: write_heif(path, [coded(picture(number)) for number in range(3)]),
        "sequence.heics": lambda path: write_heif(path, [], brands=b"hevcmsf1", movie=sequence(path, 3)),
        "sound.mp4": write_sound,
        "cover.mp3": lambda path: write_sound(path, codec="mp3", cover=folder / "still.jpg"),
    }
    for name, make in makers.items():
        make(folder / name)
    return tuple(Seed(name=name, data=(folder / name).read_bytes()) for name in makers)


def _maker(encoding: Encoding, frames: int) -> Callable[[Path], object]:
    width, height = (128, 96) if encoding.codec == "h263" else (64, 48)  # H.263 has five sizes, this is the smallest
    return lambda path: write_clip(path, frames, encoding=encoding, width=width, height=height)


def _write_still(path: Path) -> None:
    image = Image.fromarray(picture(5))
    if path.suffix in (".jpg", ".webp", ".png"):
        image.getexif()[0x0112] = 6
        image.save(path, exif=image.getexif())
    else:
        image.save(path)


def _write_animation(path: Path) -> None:
    """Without the time at which it was made, which AVIF would keep."""
    data = write_animation(path, 6).read_bytes()
    path.write_bytes(_AVIF_TIMES.sub(lambda found: found[1] + bytes(16), data))
