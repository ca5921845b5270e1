#!/usr/bin/env bash
# VideoFrame.reformat(dst_color_trc=…, dst_color_primaries=…) is documented in PyAV 18 as tagging the output frame only,
# without converting pixels. With FFmpeg 8 it converts: a grey of HDR's PQ curve that stands for 203 cd/m2, the white of a
# page, becomes almost the largest value, and all that is brighter is cut off. Without the two arguments nothing changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorTrc

# 10 bits, limited range; 572 is 0.58 of the range: 203 cd/m2 by SMPTE ST 2084
frame = av.VideoFrame(64, 16, "yuv420p10le")
for plane, level in zip(frame.planes, (572, 512, 512)):
    plane.update(np.full(plane.buffer_size // 2, level, np.uint16).tobytes())
frame.color_trc, frame.color_primaries, frame.colorspace = 16, 9, 9
plain = frame.reformat(format="rgb24").to_ndarray()[5, 5]
tagged = frame.reformat(
    format="rgb24", dst_color_trc=ColorTrc.BT709, dst_color_primaries=ColorPrimaries.BT709
).to_ndarray()[5, 5]
print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: PQ grey of 203 cd/m2 as 8-bit RGB")
print(f"  reformat(format='rgb24'): {plain.tolist()}; with dst_color_trc and dst_color_primaries: {tagged.tolist()}")
assert 140 < plain.max() < 155 and tagged.min() > 245
PYTHON
