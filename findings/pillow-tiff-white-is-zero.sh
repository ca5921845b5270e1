#!/usr/bin/env bash
# A grey TIFF says whether 0 is black or white (PhotometricInterpretation). Pillow obeys that with 8 bits and inverts where
# 0 is white; with 16 bits it doesn't, and the picture of a scanner or a microscope is a negative. The tag alone tells it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check pillow==13.0.0
cd "$folder"
venv/bin/python - <<'PYTHON'
import struct

import PIL
from PIL import Image


def shades(bits, photometric):
    """Writes two pixels, 0 and the largest value, and returns what Pillow makes of them."""
    data = struct.pack("<BB" if bits == 8 else "<HH", 0, (1 << bits) - 1)
    tags = (256, 2), (257, 1), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1), (278, 1), (279, len(data))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    with open("a.tif", "wb") as file:
        file.write(b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory)
    with Image.open("a.tif") as image:
        return image.mode, [image.getpixel((place, 0)) for place in range(2)]


print(f"Pillow {PIL.__version__}: the pixels 0 and the largest value of a grey TIFF")
found = {(bits, zero): shades(bits, zero) for bits in (8, 16) for zero in (1, 0)}
for (bits, zero), (mode, pixels) in found.items():
    print(f"  {bits} bits, 0 is {'black' if zero else 'white'}: {pixels} ({mode})")
assert [pixels for _, pixels in found.values()] == [[0, 255], [255, 0], [0, 65535], [0, 65535]]
PYTHON
