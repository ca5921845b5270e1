#!/usr/bin/env bash
# To read only the key frames of a video quickly, one sets stream.discard = "nonkey" (AVDISCARD_NONKEY) and demuxes. In an
# MP4 with B-frames the packets that come are the right ones, and their dts are right, but the pts of every key packet behind
# the first is another than in a demux of the whole file. Seeking and cutting by these pts misses the frames. The pts have to
# come from packets that are read without discarding.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import av
import numpy as np
from av.stream import Discard

with av.open("a.mp4", "w") as container:
    options = {"bf": "2", "g": "30", "sc_threshold": "0", "threads": "1"}
    stream = container.add_stream("libx264", rate=25, options=options)
    stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
    for number in range(200):
        picture = np.zeros((96, 160, 3), np.uint8)
        picture[:, number % 150 : number % 150 + 10] = 255
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
    container.mux(stream.encode())


def keys(discard):
    with av.open("a.mp4") as container:
        stream = container.streams.video[0]
        if discard:
            stream.discard = discard
        return [(packet.dts, packet.pts) for packet in container.demux(stream) if packet.is_keyframe and packet.size]


whole, alone = keys(None), keys(Discard.nonkey)
print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: (dts, pts) of the key packets")
print("  all packets read:   ", whole)
print("  others discarded:   ", alone)
assert [dts for dts, _ in whole] == [dts for dts, _ in alone]
assert len(whole) == 7 and whole[0] == alone[0]
assert all(pts != other for (_, pts), (_, other) in zip(whole[1:], alone[1:], strict=True))
PYTHON
