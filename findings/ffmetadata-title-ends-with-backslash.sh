#!/usr/bin/env bash
# FFmpeg's metadata files escape a backslash with a backslash. If the title of a chapter ends with one, "title=a\\" at the end
# of its line, the demuxer takes the second backslash together with the line break: the next line belongs to the title. Where
# that line is the next [CHAPTER], this chapter is missing, without an error or a warning. A space behind the escaped
# backslash keeps both chapters.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check av==18.1.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import av


def titles(first):
    chapters = [(0, 1000, first), (1000, 2000, "second")]
    lines = [f"[CHAPTER]\nTIMEBASE=1/1000\nSTART={start}\nEND={end}\ntitle={title}\n" for start, end, title in chapters]
    with open("a.ffmeta", "w") as file:
        file.write(";FFMETADATA1\n" + "".join(lines))
    with av.open("a.ffmeta", format="ffmetadata") as container:
        return [chapter["metadata"].get("title") for chapter in container.chapters()]


found, spaced, inner = titles("a\\\\"), titles("a\\\\ "), titles("a\\\\b")
print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: the titles of two chapters")
print("  the first ends with an escaped backslash:   ", found)
print("  a space behind it:                          ", spaced)
print("  the backslash within the title:             ", inner)
assert len(found) == 1 and len(spaced) == 2 and inner == ["a\\b", "second"]
PYTHON
