from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from tests.clips import (
    FFV1,
    H264,
    MJPEG,
    MPEG4,
    Encoding,
    Pixels,
    cut,
    full_decode,
    index_of,
    picture,
    reference_eight,
    wipe,
    write_animation,
    write_clip,
    write_pictures,
)
from vllava_cli.errors import MediaError
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Clip, Frames, Framing

WHOLE = Framing()


def run_python(code: str, folder: Path) -> str:
    """What `code` prints in a process of its own that runs in `folder`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


def indices(frames: Frames) -> list[int]:
    return [index_of(frame) for frame in frames.pixels]


def test_the_facts_of_a_clip(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 24)
    frames = sample(path, WHOLE)
    assert frames.clip == Clip(
        path=path,
        kind="video",
        width=64,
        height=48,
        frame_count=24,
        duration_s=2.4,
        fps=10.0,
        codec="h264",
        container="mp4",
        pixel_format="yuv420p",
        way="seek",
        way_reason="The file's own sample table tells where each frame is; at most 17 of 24 are decoded.",
    )
    assert frames.times_s == (0.0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1)


@pytest.mark.parametrize("orientation", [1, 2, 5, 6])
@pytest.mark.parametrize(
    ("kind", "name"), [("JPEG", "a.mov"), ("JPEG", "a.avi"), ("JPEG", "a.mkv"), ("PNG", "a.mov"), ("PNG", "a.avi")]
)
def test_pictures_copied_into_a_video_with_their_exif_stand_upright(
    tmp_path: Path, kind: str, name: str, orientation: int
) -> None:
    path = write_pictures(tmp_path / name, kind=kind, orientation=orientation)

    def expected(stored: Pixels) -> Pixels:
        image = Image.fromarray(stored)
        image.getexif()[0x0112] = orientation
        return np.asarray(ImageOps.exif_transpose(image))

    frames = sample(path, WHOLE)
    assert (frames.pixels == reference_eight([expected(stored) for stored in full_decode(path)])).all()
    assert frames.clip.faults == ()


def test_the_matrix_that_a_phone_writes_turns_clockwise(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", 1, encoding=replace(H264, rotation=90))
    # Held upright, a phone stores a lying picture with a = 0, b = 1, c = -1, d = 0.
    assert bytes.fromhex("00000000 00010000 00000000 ffff0000 00000000 00000000") in path.read_bytes()
    frames = sample(path, WHOLE)
    assert (frames.pixels[0][:, -1] == full_decode(path)[0][0]).all()
    assert (frames.clip.width, frames.clip.height, frames.clip.rotation) == (48, 64, 90)


def test_frames_without_times_follow_the_declared_rate(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.h264", 16, encoding=Encoding(container="h264", fps=25))
    frames = sample(path, WHOLE)
    assert frames.times_s == (0.0, 0.08, 0.16, 0.24, 0.32, 0.4, 0.48, 0.56)
    assert frames.clip.fps == 25.0


@pytest.mark.parametrize("encoding", [replace(MPEG4, muxer_options={"movflags": "faststart"}), MJPEG])
def test_a_clip_whose_end_is_missing_gives_the_frames_it_has(encoding: Encoding) -> None:
    name = "avi" if encoding is MJPEG else "mp4"
    whole = write_clip(Path(f"a.{name}"), 60, encoding=encoding)
    frames = sample(cut(whole, 0.5, f"b.{name}"), WHOLE)
    count = frames.clip.frame_count
    assert 8 < count < 40
    fault = f"{count} of 60 frames of 'b.{name}' could be decoded: the file is truncated or damaged."
    assert frames.clip.faults == (fault,)
    assert (frames.pixels[:7] == reference_eight(full_decode(whole)[:count])[:7]).all()


def test_a_frame_that_grows_beyond_all_bounds_is_refused() -> None:
    Image.fromarray(picture(0)).save("0.jpg")
    Image.new("L", (9_500, 9_500)).save("1.jpg")
    with av.open("a.avi", "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for time, name in enumerate(["0.jpg"] * 5 + ["1.jpg"] + ["0.jpg"] * 15):
            packet = av.Packet(Path(name).read_bytes())
            packet.stream, packet.time_base, packet.is_keyframe = stream, Fraction(1, 10), True
            packet.pts = packet.dts = time
            container.mux(packet)
    frames = sample(Path("a.avi"), WHOLE)
    assert frames.clip.faults == ("20 of 21 frames of 'a.avi' could be decoded: the file is truncated or damaged.",)


def test_a_damaged_middle_is_passed_over() -> None:
    everything = full_decode(write_clip(Path("a.mkv"), 16, encoding=MJPEG))
    wipe(Path("a.mkv"), slice(4, 6))
    frames = sample(Path("a.mkv"), WHOLE)
    assert frames.clip.faults == ("14 of 16 frames of 'a.mkv' could be decoded: the file is truncated or damaged.",)
    assert (frames.pixels == reference_eight(everything[:4] + everything[6:])).all()
    assert frames.times_s[1:4] == (0.1, 0.3, 0.7)


def test_a_video_without_one_good_frame() -> None:
    wipe(write_clip(Path("a.avi"), 4, encoding=MJPEG), slice(None))
    with pytest.raises(MediaError) as error:
        sample(Path("a.avi"), WHOLE)
    assert str(error.value) == ("No frame of 'a.avi' could be decoded: it is damaged. Copy or download it again.")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from Linux's /proc")
def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    write_clip(tmp_path / "short.avi", 10, encoding=MJPEG, width=320, height=240)
    write_clip(tmp_path / "long.avi", 400, encoding=MJPEG, width=320, height=240)
    code = """
from pathlib import Path
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Framing
for name in ("short.avi", "long.avi"):
    sample(Path(name), Framing())
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(peak.split()[1])
"""
    short_kib, long_kib = (int(line) for line in run_python(code, tmp_path).split())
    all_frames_kib = 400 * 320 * 240 * 3 // 1024
    assert long_kib - short_kib < all_frames_kib // 4


def test_a_clip_that_does_not_fit_into_memory(tmp_path: Path) -> None:
    header = b"YUV4MPEG2 W9000 H9000 F25:1 Ip A1:1 C420\nFRAME\n"
    (tmp_path / "a.y4m").write_bytes(header)
    os.truncate(tmp_path / "a.y4m", len(header) + 9000 * 9000 * 3 // 2)
    code = """
import resource
from pathlib import Path
from vllava_cli.errors import MediaError
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Framing
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
try:
    sample(Path("a.y4m"), Framing())
except MediaError as error:
    print(error)
"""
    assert run_python(code, tmp_path) == "'a.y4m' needs more memory than there is. Scale it down first.\n"


def write_any(path: Path, frames: int) -> Path:
    """A clip of the kind that the ending says, in which frame i shows `picture(i)`; without an ending, a folder."""
    match path.suffix:
        case ".webp" | ".gif":
            return write_animation(path, frames)
        case "":
            path.mkdir()
            for index in range(frames):
                Image.fromarray(picture(index)).save(path / f"{index}.png")
            return path
    return write_clip(path, frames, encoding={".avi": MPEG4, ".nut": FFV1}.get(path.suffix, H264))


@pytest.mark.parametrize("frames", [2, 8, 13, 61])
@pytest.mark.parametrize("name", ["a.mp4", "a.avi", "a.nut", "a.webp", "a.gif", "a"])
def test_a_shift_moves_the_positions_by_its_share_of_a_step(tmp_path: Path, name: str, frames: int) -> None:
    path = write_any(tmp_path / name, frames)
    first = sample(path, WHOLE).clip
    times_s = [index * (first.duration_s or 0) / frames for index in range(frames)]
    for number, of in ((0, 5), (1, 2), (3, 5), (15, 16)):
        whole = sample(path, Framing(shift=number / of))
        steps = [(i + Fraction(number, of)) / 8 for i in range(8)]
        assert indices(whole) == [int(step * frames) for step in steps], (number, of)
        half = sample(path, Framing(shift=number / of, start_s=times_s[frames // 2] - 1e-3))
        assert indices(half) == [frames // 2 + int(step * (frames - frames // 2)) for step in steps], (number, of)


@pytest.mark.parametrize("name", ["a.webp", "a.avif", "a.gif", "a.png"])
def test_an_animation_is_a_video(tmp_path: Path, name: str) -> None:
    durations_ms = [100, 50, 200, 100, 100, 100, 40, 100, 100, 100, 100, 110]
    frames = sample(write_animation(tmp_path / name, 12, durations_ms=durations_ms), WHOLE)
    starts_s = np.cumsum([0, *durations_ms]) / 1000
    assert (frames.kind, frames.clip.frame_count) == ("video", 12)
    assert indices(frames) == [0, 1, 3, 4, 6, 7, 9, 10]
    assert frames.times_s == pytest.approx([starts_s[index] for index in (0, 1, 3, 4, 6, 7, 9, 10)])
    assert frames.clip.duration_s == pytest.approx(1.2)


def test_a_lossless_animation_keeps_every_pixel_and_can_be_trimmed(tmp_path: Path) -> None:
    path = write_animation(tmp_path / "a.webp", 9)
    assert (sample(path, WHOLE).pixels == reference_eight([picture(index) for index in range(9)])).all()
    assert indices(sample(path, Framing(start_s=0.5, end_s=0.9))) == [5, 5, 6, 6, 7, 7, 8, 8]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_an_animation_is_composed_over_what_was_there(tmp_path: Path, name: str) -> None:
    pictures = []
    for index in range(8):
        image = Image.new("RGB", (40, 20), (0, 0, 255))
        image.paste((255, 0, 0), (5 * index, 5, 5 * index + 5, 10))
        pictures.append(image)
    pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=100, lossless=True)
    frames = sample(tmp_path / name, WHOLE)
    assert (frames.pixels == np.stack([np.asarray(image) for image in pictures])).all()


def test_an_animation_whose_end_is_missing() -> None:
    short = cut(write_animation(Path("a.gif"), 24), 0.5, "b.gif")
    frames = sample(short, WHOLE)
    assert frames.clip.frame_count in range(8, 14)
    assert indices(frames)[0] == 0


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.bmp", "a.tiff", "photo.mp4"])
def test_one_picture_is_an_image(tmp_path: Path, name: str) -> None:
    image = Image.fromarray(picture(5))
    image.save(tmp_path / name, format="PNG" if name == "photo.mp4" else None)
    frames = sample(tmp_path / name, Framing(start_s=3))
    assert (frames.kind, frames.times_s, frames.clip.duration_s) == ("image", (0.0,), None)
    assert index_of(frames.pixels[0]) == 5
