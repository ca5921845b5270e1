#!/usr/bin/env bash
# FFmpeg's count of an MP4's frames (stream.frames in PyAV, nb_frames in ffprobe) is that of the movie box alone. A file
# written with frag_keyframe, as recorders do, lists its first fragment there and the others behind it: the count is 25 of
# 300, not 0 as for a file without a count. Loops that spread positions over it, such as the one in transformers'
# documentation of Video-LLaVA, see the first second of the film. With global_sidx as well (and without
# default_base_moof), FFmpeg writes the fragments' offsets as if the new box weren't there: 25 frames can be decoded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import av
import numpy as np


def written(flags):
    with av.open("x.mp4", "w", options={"movflags": flags}) as container:
        stream = container.add_stream("libx264", rate=25, options={"g": "25", "sc_threshold": "0", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(300):
            picture = np.full((48, 64, 3), number * 7 % 256, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def found():
    """Returns the count, the packets, and the frames that can be decoded."""
    with av.open("x.mp4") as container:
        stream, packets, decoded = container.streams.video[0], 0, 0
        for packet in container.demux(stream):
            packets += packet.size > 0
            try:
                decoded += len(packet.decode())
            except av.InvalidDataError:
                pass
        return stream.frames, packets, decoded


print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: (stream.frames, packets, decoded) of 300 frames")
seen = {}
for flags in ("frag_keyframe+empty_moov", "frag_keyframe", "frag_keyframe+global_sidx"):
    written(flags)
    seen[flags] = found()
    print(f"  {flags}: {seen[flags]}")
assert seen["frag_keyframe+empty_moov"] == (0, 300, 300)
assert seen["frag_keyframe"] == (25, 300, 300)
assert seen["frag_keyframe+global_sidx"] == (25, 300, 25)
PYTHON
