#!/usr/bin/env bash
# An MP4 may say that only a part of each frame is shown (clap, clean aperture): of 720 columns the middle 704. PyAV decodes
# all 720; and if the file doesn't state the shape of a pixel as well (pasp), FFmpeg concludes one from the width in which
# the track is shown: sample_aspect_ratio is 44:45 (704:720). Whoever stretches by it squeezes square pixels, and whoever
# crops as well does so for nothing. With a clap but no pasp the ratio isn't to be used.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import struct

import av


def box(kind, data):
    return struct.pack(">I", len(data) + 8) + kind + data


def inserted(movie, path, added):
    """Appends a box to the box at the end of a path of boxes; all on the way grow."""
    at, end = 0, len(movie)
    for kind in path:
        while movie[at + 4 : at + 8] != kind:
            at += struct.unpack_from(">I", movie, at)[0]
        (size,) = struct.unpack_from(">I", movie, at)
        struct.pack_into(">I", movie, at, size + len(added))
        at, end = at + {b"stsd": 16, b"avc1": 86}.get(kind, 8), at + size
    movie[end:end] = added


def ratio(*boxes):
    """The ratio that PyAV gives if these boxes are added to the description of the video."""
    movie = bytearray(written)
    for each in boxes:
        inserted(movie, (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", b"avc1"), each)
    track = movie.index(b"tkhd") + 4
    struct.pack_into(">I", movie, track + 76, shown << 16)
    with open("b.mp4", "wb") as file:
        file.write(movie)
    with av.open("b.mp4") as container:
        return str(container.streams.video[0].sample_aspect_ratio), len(list(container.decode(video=0)))


with av.open("a.mp4", "w") as container:
    stream = container.add_stream("libx264", rate=10)
    stream.width, stream.height, stream.pix_fmt = 720, 576, "yuv420p"
    for _ in range(3):
        container.mux(stream.encode(av.VideoFrame(720, 576, "yuv420p")))
    container.mux(stream.encode())
with open("a.mp4", "rb") as file:
    written = file.read()
assert b"pasp" not in written

shown = 704
clap = box(b"clap", struct.pack(">8I", shown, 1, 576, 1, 0, 1, 0, 1))
square = box(b"pasp", struct.pack(">II", 1, 1))
found = ratio(clap), ratio(clap, square)
print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: sample_aspect_ratio of 720x576, of which 704x576 are shown")
print(f"  clap: {found[0][0]}; clap and pasp 1:1: {found[1][0]}")
assert found == (("44/45", 3), ("1", 3))
PYTHON
