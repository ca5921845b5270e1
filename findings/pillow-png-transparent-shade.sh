#!/usr/bin/env bash
# Pillow scales the pixels of a PNG to 8 bits, but not the one colour that the file calls transparent (tRNS): a grey of 2
# or 4 bits, or a colour of 16 bits, stays as it is in the file. So no pixel has it, and convert("RGBA") makes opaque what
# a browser shows as nothing. With 1 and 8 bits it is right, and with black.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import struct
import zlib

import PIL
from PIL import Image


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write(bits, colour_type, row, key):
    """Two pixels, of which the second has the transparent colour."""
    header = struct.pack(">IIBBBBB", 2, 1, bits, colour_type, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"tRNS", key), chunk(b"IDAT", zlib.compress(b"\0" + row)), chunk(b"IEND", b"")
    with open("a.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def alpha():
    image = Image.open("a.png").convert("RGBA")
    return [image.getpixel((place, 0))[3] for place in range(2)]


files = {
    "grey, 1 bit": (1, 0, b"\x40", b"\0\1"),
    "grey, 2 bits": (2, 0, b"\x60", b"\0\2"),
    "grey, 4 bits": (4, 0, b"\x5a", b"\0\x0a"),
    "grey, 8 bits": (8, 0, b"\x50\xa0", b"\0\xa0"),
    "colours, 16 bits": (16, 2, b"\x50\0" * 3 + b"\xa0\x12" * 3, b"\xa0\x12" * 3),
}
print(f"Pillow {PIL.__version__}: alpha of an opaque and of a transparent pixel (right: 255, 0)")
found = {}
for name, how in files.items():
    write(*how)
    found[name] = alpha()
    print(f"  {name}: {found[name]}")
right, wrong = [255, 0], [255, 255]
assert [found[name] for name in files] == [right, wrong, wrong, right, wrong]
PYTHON
