#!/usr/bin/env bash
# Two kinds of files have a rate or times in PyAV that no player shows. A raw H.264 stream that states 50 frames a second
# has average_rate 25 and frames without a pts; only guessed_rate is 50. H.264 with B-frames in an AVI, which has no
# presentation times, decodes in the right order, but the pts of its frames fall back again and again.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import av
import numpy as np


def times(name, rate):
    """Writes 60 frames and returns the rates that PyAV tells, and the seconds of the decoded frames."""
    with av.open(name, "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"bf": "2", "b_strategy": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(60):
            picture = np.full((48, 64, 3), number * 4, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    with av.open(name) as container:
        stream = container.streams.video[0]
        average, guessed = float(stream.average_rate), float(stream.guessed_rate)
        shown = [(frame.to_ndarray(format="gray").mean(), frame.time) for frame in container.decode(stream)]
    levels = [level for level, _ in shown]
    assert levels == sorted(levels)
    return average, guessed, [time for _, time in shown]


print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}")
average, guessed, raw = times("x.h264", 50)
print(f"  raw H.264 of 50 frames a second: average_rate {average:g}, guessed_rate {guessed:g}, times {set(raw)}")
assert (average, guessed) == (25, 50) and set(raw) == {None}
_, _, avi = times("x.avi", 25)
falls = sum(after < before for before, after in zip(avi, avi[1:]))
print(f"  AVI: frames in order, of their times {falls} fall back: {', '.join(f'{time:g}' for time in avi[:8])}, …")
assert falls > 10
PYTHON
