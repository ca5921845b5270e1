"""Names files that vllava doesn't open by their first bytes: other containers, playlists, archives, pages and text."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_HEAD_BYTES = 40 << 10
"""The first volume descriptor of a disc image begins after 32 KiB."""
TEXT_BYTES = 4096
_FEW_BYTES = 16
"""The first letters of anything may look like text."""
_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")

_CONTAINER = "a container that vllava doesn't open. Convert it to mp4"
_LIST = "which names other files or addresses. Name those files, or save the video as one mp4"
_PACKED = "Unpack it and name the files in it"
_PAGE = "not a video; maybe an error was saved in its place. Download it again"
_XML = rb"(?i:(\xef\xbb\xbf)?\s*(<[?!][^>]*>\s*)*"

_KINDS = {
    rb"\.RM[FP]": f"a RealMedia file, {_CONTAINER}",
    rb"[CFZ]WS[\x01-\x40]": f"a Flash animation (SWF), {_CONTAINER}",
    rb"\xb7\xd8\0\x20\x37\x49\xda\x11": f"a TV recording of Windows (WTV), {_CONTAINER}",
    rb"\xf5\x46\x7a\xbd": f"a TiVo recording, {_CONTAINER}",
    rb"(Nuppel|MythTV)Video": f"a NuppelVideo recording, {_CONTAINER}",
    rb"DHAV": f"a Dahua recording, {_CONTAINER}",
    rb"(\r\n)?--[^\r\n]+\r?\nContent-": f"a multipart motion JPEG stream, {_CONTAINER}",
    rb"\0\0\0\0\x01\xbc": f"a GXF file, {_CONTAINER}",
    rb"....RED[12]": f"a Redcode raw video (R3D), {_CONTAINER}",
    rb"ARRI|IRRA": f"an ARRIRAW picture, {_CONTAINER}",
    rb"MLVI": f"a Magic Lantern raw video (MLV), {_CONTAINER}",
    rb"CI\x2c\0": f"a Phantom raw video (Cine), {_CONTAINER}",
    rb"BIK[a-k]|KB2[a-k]": f"a Bink video, {_CONTAINER}",
    rb"SMK[24]": f"a Smacker video, {_CONTAINER}",
    rb"NSV[fs]": f"a Nullsoft video (NSV), {_CONTAINER}",
    rb"\x84\x10\xff\xff\xff\xff": f"a RoQ video, {_CONTAINER}",
    rb"RIFF....AMV ": f"an AMV video, {_CONTAINER}",
    rb"....[\x11\x12\x44]\xaf": f"a FLIC animation, {_CONTAINER}",
    rb".{32769}(CD001|BEA01)": "a disc image, which vllava doesn't open. Mount it and name the video files in it",
    rb"DVDVIDEO-V": "a DVD's table of contents, which has no video in it. Name the .VOB files beside it",
    rb"(MPLS|INDX|MOBJ|HDMV)0": "a Blu-ray's table of contents, which has no video in it. Name the .m2ts files",
    rb"(\xef\xbb\xbf)?#EXTM3U": f"a playlist (M3U8), {_LIST}",
    _XML + rb"<MPD\b)": f"a playlist (DASH), {_LIST}",
    _XML + rb"<(asx|smil|playlist)\b)": f"a playlist, {_LIST}",
    rb"ffconcat version|(?i:\[playlist\])": f"a playlist, {_LIST}",
    rb"v=0\r?\no=": f"the description of a stream (SDP), {_LIST}",
    _XML + rb"<(!doctype )?(html|head|body|script|meta|title)\b)": f"an HTML page, {_PAGE}",
    rb"(\xef\xbb\xbf)?\s*<\?xml": f"an XML document, {_PAGE}",
    rb"version https://git-lfs": "a pointer of Git LFS, not the file itself. Run git lfs pull",
    rb"\0\x05\x16\x07": "an AppleDouble file, which has no video in it. Name the file without ._ before its name",
    rb"%PDF-": "a PDF document, not a video. Save its pages as images",
    rb"PK[\x03\x05\x07]": f"a ZIP archive. {_PACKED}",
    rb"Rar!": f"a RAR archive. {_PACKED}",
    rb"7z\xbc\xaf\x27\x1c": f"a 7z archive. {_PACKED}",
    rb"\x1f\x8b|BZh[1-9]|\xfd7zXZ|\x28\xb5\x2f\xfd": f"a compressed file. {_PACKED}",
    rb".{257}ustar": f"a tar archive. {_PACKED}",
    rb"FORM....AIF|#!AMR|caff|MThd|\x0b\x77|MAC ": "a sound file. Name a video or an image",
    rb"\0{4096}": "all zeros where it begins: a copy or download that didn't end. Copy or download it again",
}
"""How such a file begins, and what it is called. The first that fits is taken."""


def what_it_is(path: Path) -> str | None:
    """Returns the rest of a sentence that begins with the file's name and "is"; None if nothing is known about it."""
    head = b""
    with suppress(OSError), path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    kinds = (what for beginning, what in _KINDS.items() if re.match(beginning, head, re.DOTALL))
    is_known = len(head) >= _FEW_BYTES and is_text(head)
    return next(kinds, "text, not a video or an image. Check the path" if is_known else None)


def is_text(head: bytes) -> bool:
    """Returns True if a file that begins so is text in UTF-8, UTF-16 or, but for a tenth, ASCII. b"" is no text."""
    head = head[:TEXT_BYTES]
    if _CONTROLS.search(head):
        return head.startswith(_UTF_16)
    return head.decode(errors="replace").count("\N{REPLACEMENT CHARACTER}") * 10 < len(head)
