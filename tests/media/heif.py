"""Writes HEIF files box by box (ISO/IEC 23008-12): grids of tiles, turned, mirrored and cropped pictures, sequences.

An item is a coded picture or is made of others; the file's pictures are those items that aren't hidden.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import av
import numpy as np

from tests.clips import Pixels
from tests.media import zoo
from tests.media.zoo import _box, _find

STILL = zoo.x265("crf=4:bframes=0")

IROT = [_box(b"irot", bytes([quarter])) for quarter in range(4)]
"""Turned by so many quarters, anticlockwise."""
IMIR = [_box(b"imir", bytes([axis])) for axis in range(2)]
"""Axis 0 swaps top and bottom, axis 1 swaps left and right."""


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item: `kind` is hvc1, grid or another; `references` are kinds with the numbers of other items."""

    data: bytes
    kind: bytes = b"hvc1"
    properties: tuple[bytes, ...] = ()
    is_hidden: bool = False
    references: tuple[tuple[bytes, tuple[int, ...]], ...] = field(default=())


def coded(pixels: Pixels, *properties: bytes, is_hidden: bool = False, references: tuple = ()) -> Item:
    """A picture coded in HEVC, [H, W, 3]."""
    configuration, data, size = _hevc(pixels.tobytes(), pixels.shape)
    return Item(
        data=data, properties=(configuration, size_of(*size), *properties), is_hidden=is_hidden, references=references
    )


def clap(width: int, height: int, left: int, top: int, of: tuple[int, int]) -> bytes:
    """Only a part of a picture is shown; the box has the offset of its centre from the picture's."""
    right, down = 2 * left + width - of[0], 2 * top + height - of[1]
    return _box(b"clap", struct.pack(">8i", width, 1, height, 1, right, 2, down, 2))


def auxiliary(kind: str) -> bytes:
    return _box(b"auxC", bytes(4), kind.encode() + b"\0")


def grid(pixels: Pixels, rows: int, columns: int, *properties: bytes) -> list[Item]:
    """A picture as phones write it: equal tiles, of which the last may reach over the edge. The grid comes first."""
    height, width, _ = pixels.shape
    tall, wide = -(-height // rows), -(-width // columns)
    tall, wide = tall + tall % 2, wide + wide % 2
    padded = np.pad(pixels, ((0, rows * tall - height), (0, columns * wide - width), (0, 0)), mode="edge")
    tiles = [
        coded(np.ascontiguousarray(padded[y : y + tall, x : x + wide]), is_hidden=True)
        for y in range(0, rows * tall, tall)
        for x in range(0, columns * wide, wide)
    ]
    whole = Item(
        data=struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height),
        kind=b"grid",
        properties=(size_of(width, height), *properties),
        references=((b"dimg", tuple(range(2, 2 + rows * columns))),),
    )
    return [whole, *tiles]


def write_heif(
    path: Path,
    items: Sequence[Item],
    *,
    primary: int = 1,
    brands: bytes = b"heicmif1heicmiaf",
    groups: Sequence[tuple[bytes, tuple[int, ...]]] = (),
    movie: bytes = b"",
) -> Path:
    """Writes the items, numbered from 1; `groups` are entity groups, `movie` are the boxes of a sequence."""
    kind = _box(b"ftyp", brands[:4], bytes(4), brands[4:])
    lists = b"".join(
        _box(name, bytes(4), struct.pack(f">II{len(ids)}I", 1000 + number, len(ids), *ids))
        for number, (name, ids) in enumerate(groups)
    )
    start = len(kind) + len(_meta(items, primary, lists, 0)) + 8
    data = _box(b"mdat", b"".join(item.data for item in items))
    path.write_bytes(kind + _meta(items, primary, lists, start) + data + _moved(movie, start - 8 + len(data)))
    return path


def sequence(path: Path, frames: int) -> bytes:
    """The boxes of a track of pictures in HEVC: those of an MP4 with the handler of a sequence, behind its brands."""
    plain = zoo.plain_clip(zoo.beside(path, "plain.mp4"), frames, encoding=zoo.x265("bframes=0"))
    data = zoo.remux(plain, zoo.beside(path, "hvc1.mp4"), tag="hvc1").read_bytes()
    return _moved(data[28:].replace(b"vide", b"pict"), -28)


def _moved(movie: bytes, by: int) -> bytes:
    """The boxes of a movie whose one table of chunks, stco, has places in the file that are moved."""
    if b"stco" not in movie:
        return movie
    at, end = _find(movie, b"stco")
    chunks = [chunk + by for (chunk,) in struct.iter_unpack(">I", movie[at + 16 : end])]
    return movie[: at + 16] + struct.pack(f">{len(chunks)}I", *chunks) + movie[end:]


def _meta(items: Sequence[Item], primary: int, lists: bytes, start: int) -> bytes:
    entries, places, uses, references, properties = [], [], [], [], list[bytes]()
    for number, item in enumerate(items, 1):
        entries.append(_box(b"infe", struct.pack(">IHH", 2 << 24 | item.is_hidden, number, 0), item.kind, b"\0"))
        places.append(struct.pack(">HHHII", number, 0, 1, start, len(item.data)))
        start += len(item.data)
        ids = []
        for each in item.properties:
            if each not in properties:
                properties.append(each)
            is_essential = each[4:8] in (b"hvcC", b"irot", b"imir", b"clap")
            ids.append(properties.index(each) + 1 | is_essential << 7)
        uses.append(struct.pack(">HB", number, len(ids)) + bytes(ids))
        references += [_box(kind, struct.pack(f">HH{len(to)}H", number, len(to), *to)) for kind, to in item.references]
    return _box(
        b"meta",
        bytes(4),
        _box(b"hdlr", bytes(8), b"pict", bytes(13)),
        _box(b"pitm", struct.pack(">IH", 0, primary)),
        _box(b"iloc", struct.pack(">IHH", 0, 0x4400, len(items)), *places),
        _box(b"iinf", struct.pack(">IH", 0, len(items)), *entries),
        *([_box(b"iref", bytes(4), *references)] if references else []),
        _box(b"iprp", _box(b"ipco", *properties), _box(b"ipma", struct.pack(">II", 0, len(items)), *uses)),
        *([_box(b"grpl", lists)] if lists else []),
    )


def size_of(width: int, height: int) -> bytes:
    return _box(b"ispe", struct.pack(">III", 0, width, height))


@cache
def _hevc(pixels: bytes, shape: tuple[int, int, int]) -> tuple[bytes, bytes, tuple[int, int]]:
    """The hvcC box and the picture's units, as the muxer of MP4 writes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx265", rate=1, options=dict(STILL.options))
            stream.height, stream.width, _ = shape
            stream.pix_fmt, stream.codec_context.codec_tag = "yuv420p", "hvc1"
            frame = av.VideoFrame.from_ndarray(np.frombuffer(pixels, np.uint8).reshape(shape), format="rgb24")
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        data = path.read_bytes()
        at, end = _find(data, b"hvcC")
        return data[at:end], bytes(zoo.packets_of(path)[0]), (shape[1], shape[0])
