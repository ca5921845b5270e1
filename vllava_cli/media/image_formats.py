"""Tells Pillow which image formats it may open, adds HEIF (pillow-heif), and names the files that aren't opened.

Pillow looks at the first bytes of a file, so that none of this opens a file once more. An import of a plugin registers
it. No plugin named here starts another program.
"""

from __future__ import annotations

import re
import struct
from importlib import import_module
from io import BytesIO
from typing import IO, Any, cast

from PIL import AvifImagePlugin, Image, PngImagePlugin, TiffImagePlugin

from vllava_cli.media.pictures import Orientation
from vllava_cli.media.tone_map import TRANSFERS
from vllava_cli.nouns import Transfer

_PLUGINS = ("Jpeg", "Png", "WebP", "Gif", "Bmp", "Tiff", "Avif", "Ppm", "Jpeg2K")
for _plugin in _PLUGINS:  # if one is missing, Pillow imports all of them
    import_module(f"PIL.{_plugin}ImagePlugin")
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM", "JPEG2000", "HEIF", "REFUSED")
"""Pillow tries them in this order."""

_STILL_BRANDS = rb"hei[cmsx]|mi[af]f|mif[12]|avci|j2ki|jpeg|vvic"
PICTURE = re.compile(
    rb"\xff\xd8\xff|\x89PNG|GIF8|BM|II\*\0|MM\0\*|P[1-6]\s|RIFF....WEBP|\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51|....ftyp("
    rb"avi[fs]|" + _STILL_BRANDS + rb")",
    re.DOTALL,
)
"""The first twelve bytes of the images that are opened."""
_HEIF = re.compile(rb"....ftyp(hev[cmsx]|msf1|" + _STILL_BRANDS + rb")", re.DOTALL)
_SEQUENCE_BRANDS = (b"avis", b"hevc", b"hevm", b"hevs", b"hevx", b"msf1")

_REFUSED = {
    "a JPEG XL image": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "an SVG drawing": rb"(\xef\xbb\xbf)?\s*<(?=svg|\?xml|!)",
    "a Photoshop file": rb"8BPS",
    "a GIMP file": rb"gimp xcf",
    "a PostScript file": rb"%!PS|\xc5\xd0\xd3\xc6",
    "an OpenEXR image": rb"v/1\x01",
    "a Radiance HDR image": rb"#\?R(ADIANC|GB)E",
    "an icon": rb"\0\0\x01\0[^\0]\0...\0[\0\x01]\0[\x01-\x20]\0|icns",
    "a DDS texture": rb"DDS ",
    "a QOI image": rb"qoif",
    "a FITS image": rb"SIMPLE  =",
    "a DICOM image": rb"\0{16}",
    "a DjVu document": rb"AT&TFORM",
    "a Windows metafile": rb"\xd7\xcd\xc6\x9a",
    "a raw photo of a camera": rb"....ftypcrx |FUJIFILMCCD-RAW|II\x1a\0\0\0HEAP|II(R[OS]|U\0)|MMOR|FOVb|\0MRM",
}
"""The first 16 bytes of images that vllava doesn't open."""
_ANY_REFUSED = re.compile(b"|".join(b"(?:" + pattern + b")" for pattern in _REFUSED.values()), re.DOTALL)
_INSIDE = {
    "an SVG drawing": re.compile(rb"(?is)\A(?!.*<html\b).*<svg[\s>:]"),
    "a DICOM image": re.compile(rb".{128}DICM", re.DOTALL),
}
"""What else the first 4 KiB must hold."""

_DNG_VERSION, _SUB_FILE, _SUB_FILES = 50706, 254, 330
_REDUCED, _MASK = 1, 4
_KEY_SCALES = {"L;2": 85, "L;4": 17}


class RefusedError(Exception):
    """A file of a kind that isn't opened; the message is the kind, as in "an SVG drawing"."""


def turns_itself(image: Image.Image) -> bool:
    """Returns True if Pillow brings the pictures of this format upright by itself: TIFF and HEIF."""
    return image.format in ("TIFF", "HEIF")


def heif_orientation(image: Image.Image) -> Orientation:
    """Returns the turn that pillow-heif has applied to the current picture; what EXIF says doesn't count in HEIF."""
    turn = Orientation()
    for kind, amount, *_ in _transformations(image, image.tell()):
        if kind == "irot":  # anticlockwise
            turn = Orientation(rotation=(turn.rotation - amount) % 360, is_mirrored=turn.is_mirrored)
        elif kind == "imir":  # 0 swaps top and bottom, 1 swaps left and right
            turn = Orientation(rotation=(180 * (amount == 0) - turn.rotation) % 360, is_mirrored=not turn.is_mirrored)
    return turn


def heif_places(image: Image.Image) -> tuple[int, ...]:
    """Returns the places of the pictures that an HEIF file shows: several are a burst.

    Of the alternatives to the main picture (`altr`), and of the two views of a stereo photo (`ster`), only the main
    picture counts.
    """
    main = image.tell()
    groups = (
        group["images"]
        for group in image.info.get("entity_groups", ())
        if group["type"] in ("altr", "ster") and main in group["images"]
    )
    hidden = {place for group in groups for place in group} - {main}
    return tuple(place for place in range(getattr(image, "n_frames", 1)) if place not in hidden)


def heif_transfer(image: Image.Image) -> Transfer | None:
    """Returns how an HEIF file codes light if it is HDR; for other images None: Pillow doesn't read it."""
    colours = image.info.get("nclx_profile") or {}
    return TRANSFERS.get(colours.get("transfer_characteristics", 0))


def coded_size(image: Image.Image) -> tuple[int, int]:
    """Returns the larger of a picture's size and of the size that is decoded before an HEIF file's crop."""
    sizes = [image.size]
    if image.format == "HEIF":
        sizes += [tuple(crop[5:7]) for crop in _transformations(image, image.tell()) if crop[0] == "clap"]
    return max(sizes, key=lambda size: size[0] * size[1])


def _transformations(image: Image.Image, place: int) -> tuple[tuple[Any, ...], ...]:
    """Returns what is done to a stored picture, in order; nothing once its pixels are loaded and the file is closed."""
    file: Any = getattr(image, "_heif_file", None)
    return file[place]._c_image.transformations if file else ()


def page_places(image: Image.Image) -> tuple[int, ...]:
    """Returns the places of a TIFF's pages without reduced copies and masks; all places if there is nothing else.

    Moves to the first of them.
    """
    tiff, places = cast(TiffImagePlugin.TiffImageFile, image), []
    for place in range(tiff.n_frames):
        tiff.seek(place)
        if not tiff.tag_v2.get(_SUB_FILE, 0) & (_REDUCED | _MASK):
            places.append(place)
    found = tuple(places) or tuple(range(tiff.n_frames))
    tiff.seek(found[0])
    return found


def mpo_count(image: Image.Image) -> int:
    """Counts the pictures of an MPO file; previews of the first and its gain map aren't counted. Goes to the first."""
    first, count = image.size, 0
    for place in range(getattr(image, "n_frames", 1)):
        image.seek(place)
        has_gains = place > 0 and b"hdrgm:" in cast(bytes, image.info.get("xmp", b""))
        count += image.size == first and not has_gains
    image.seek(0)
    return count


def _open_avif(file: IO[bytes], name: str | bytes) -> Image.Image:
    """Opens an AVIF image; a file with a sequence and a still picture shows the sequence, whichever brand comes first.

    libavif goes by the first brand. A still picture that it can't open must not get to FFmpeg, which would show a tile.
    """
    if _has_sequence(file):
        data = bytearray(file.read())
        data[8:12] = b"avis"
        return AvifImagePlugin.AvifImageFile(BytesIO(data), name)
    brand = file.read(12)[8:]
    file.seek(0)
    try:
        return AvifImagePlugin.AvifImageFile(file, name)
    except SyntaxError as exc:
        if brand == b"avif" and AvifImagePlugin.SUPPORTED:
            raise RefusedError("damaged, or an AVIF image of a rare kind") from exc
        raise


def _open_heif(file: IO[bytes], name: str | bytes) -> Image.Image:
    """Opens the still pictures of an HEIF file; SyntaxError leaves a sequence to FFmpeg.

    What can't be opened must not get to FFmpeg, which would show a tile of the picture.
    """
    if _has_sequence(file):
        raise SyntaxError("a sequence")
    try:
        heif: Any = import_module("pillow_heif")  # 10 ms, only for such a file
        heif.options.THUMBNAILS = heif.options.DEPTH_IMAGES = heif.options.AUX_IMAGES = False
        return cast(Image.Image, heif.HeifImageFile(file, name))
    except ModuleNotFoundError as exc:
        raise RefusedError("an HEIF image") from exc
    except ImportError as exc:  # its libraries found no room
        raise MemoryError from exc
    except SyntaxError as exc:
        raise RefusedError("damaged, or an HEIF image of a rare kind") from exc


def _has_sequence(file: IO[bytes]) -> bool:
    """Returns True if one of a file's brands promises a sequence; the file is at its beginning before and after."""
    (size,) = struct.unpack(">I", file.read(4))
    brands = file.read(min(max(size, 8), 1024) - 4)[4:]
    file.seek(0)
    return any(brands[place : place + 4] in _SEQUENCE_BRANDS for place in range(0, len(brands), 4))


def _open_png(file: IO[bytes], name: str | bytes) -> Image.Image:
    """Opens a PNG image and scales its transparent colour as Pillow scales the pixels.

    Pillow leaves that colour as it is in the file: 0 to 3 for grey of two bits, 0 to 65,535 for colours of 16 bits.
    """
    image = PngImagePlugin.PngImageFile(file, name)
    key, raw_mode = image.info.get("transparency"), image.tile[0].args if image.tile else ""
    if isinstance(key, int) and raw_mode in _KEY_SCALES:
        image.info["transparency"] = key * _KEY_SCALES[raw_mode]
    elif isinstance(key, tuple) and raw_mode == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)
    return image


def _open_tiff(file: IO[bytes], name: str | bytes) -> Image.Image:
    """Opens a TIFF image; a camera's raw photo, which is one with a preview in front, is refused."""
    try:
        image = TiffImagePlugin.TiffImageFile(file, name)
    except (SyntaxError, IndexError, TypeError, struct.error) as exc:
        raise RefusedError("damaged, or a TIFF image of a rare kind") from exc
    tags = image.tag_v2
    file.seek(8)
    is_raw = file.read(2) == b"CR" or _DNG_VERSION in tags
    if is_raw or (_SUB_FILES in tags and tags.get(_SUB_FILE, 0) & _REDUCED):
        raise RefusedError("a raw photo of a camera")
    return image


def _refuse(file: IO[bytes], _name: str | bytes) -> Image.Image:
    """Raises a RefusedError for a kind of file that isn't opened, or a SyntaxError if it is none of them."""
    head = file.read(4096)
    for kind, pattern in _REFUSED.items():
        if re.match(pattern, head, re.DOTALL) and (kind not in _INSIDE or _INSIDE[kind].search(head)):
            raise RefusedError(kind)
    raise SyntaxError("none of the refused kinds")


Image.register_open("AVIF", cast(Any, _open_avif), AvifImagePlugin._accept)
Image.register_open("PNG", cast(Any, _open_png), PngImagePlugin._accept)
Image.register_open("TIFF", cast(Any, _open_tiff), TiffImagePlugin._accept)
Image.register_open("HEIF", cast(Any, _open_heif), lambda head: bool(_HEIF.match(head)))
Image.register_open("REFUSED", cast(Any, _refuse), lambda head: bool(_ANY_REFUSED.match(head)))
