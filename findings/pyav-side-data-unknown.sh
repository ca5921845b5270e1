#!/usr/bin/env bash
# PyAV 18 names each kind of a frame's side data from a table that ends before FFmpeg 8.1's does. Where one kind is newer,
# frame.side_data raises ValueError and none can be read, the display matrix neither: a camera's JPEG pictures put into a
# video as they are (ffmpeg -i %d.jpg -c copy x.mov) can be decoded, but not turned upright. frame.rotation is no way
# around it where a picture is mirrored as well. PyAV 19 gives such kinds a name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 pillow==13.0.0
cd "$folder"
venv/bin/python - <<'PYTHON'
from fractions import Fraction
from io import BytesIO

import av
from PIL import Image

picture, written = Image.new("RGB", (64, 48), "red"), BytesIO()
picture.getexif()[0x0112] = 7  # mirrored and turned
picture.save(written, "JPEG", exif=picture.getexif())
with av.open("x.mov", "w") as container:
    stream = container.add_stream("mjpeg", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
    for number in range(3):
        packet = av.Packet(written.getvalue())
        packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 10), number, number
        container.mux(packet)

with av.open("x.mov") as container:
    frames = list(container.decode(video=0))
try:
    found = str(list(frames[0].side_data))
except ValueError as error:
    found = f"ValueError: {error}"
print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: {len(frames)} frames, rotation {frames[0].rotation}")
print(f"  side_data: {found}")
assert found == "ValueError: 31 is not a valid Type"
PYTHON
