"""Reads just enough of a packet to tell if decoding may start there, if it is shown, and if other frames need it.

Pure. Sources: ITU-T H.264 and H.265 (NAL units, recovery point), RFC 6386 (VP8), the VP9 and AV1 bitstream
specifications, ISO/IEC 13818-2 and 14496-2 (picture and VOP headers).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Start = Literal["clean", "open", "none"]
"""clean: from here on, in presentation order, decoding gives what a full decode gives · open: the same, except for
frames that refer back; start one group earlier · none: not a place to start."""

INTRA = frozenset(
    (
        *("cfhd", "dnxhd", "dvvideo", "ffvhuff", "hap", "huffyuv", "jpeg2000", "magicyuv", "mjpeg", "png", "prores"),
        *("rawvideo", "utvideo", "v210", "vc2"),
    )
)
"""Codecs in which every frame stands alone."""

SEEKABLE = INTRA | {"h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "mpeg1video", "mpeg2video", "mpeg4", "ffv1"}
"""Codecs whose key frames are clean starts, or can be told apart from key frames that aren't."""

ONE_FRAME_PER_SAMPLE = SEEKABLE - {"vp8", "vp9"}
"""Codecs in which each sample of an mp4 shows exactly one frame; VP8 and VP9 may hide some."""

_H264_SLICES = (1, 2, 5)
_HEVC_KEYS = range(16, 22)
_HEVC_UNREFERENCED = (0, 2, 4, 6, 8, 10, 12, 14)


@dataclass(frozen=True, kw_only=True)
class Bitstream:
    """Knows how a stream's packets are coded; `Bitstream.of` makes it from FFmpeg's codec name and the extradata."""

    codec: str
    length_bytes: int = 0
    """The number of bytes before each NAL unit that hold its length; 0 if start codes separate the units."""
    temporal_layers: int = 0
    """The number of HEVC's temporal layers; 0 if it isn't known."""

    @classmethod
    def of(cls, codec: str, extradata: bytes | None) -> Bitstream:
        head = extradata or b""
        if codec == "h264" and len(head) > 6 and head[0] == 1:
            return cls(codec=codec, length_bytes=(head[4] & 3) + 1)
        if codec == "hevc" and len(head) > 22 and head[0] == 1:
            return cls(codec=codec, length_bytes=(head[21] & 3) + 1, temporal_layers=head[21] >> 3 & 7)
        return cls(codec=codec, temporal_layers=_layers(head) if codec == "hevc" else 0)

    def start(self, packet: memoryview) -> Start:
        """Tells how well decoding may start at a packet that the container calls a key frame."""
        match self.codec:
            case "h264":
                return self._h264_start(packet)
            case "hevc":
                kind = next((head >> 1 & 63 for head, _ in self._units(packet) if head >> 1 & 63 < 32), 0)
                return "clean" if kind in _HEVC_KEYS else "none"
            case "vp8":
                return "clean" if len(packet) and not packet[0] & 1 else "none"
            case "vp9":
                return "clean" if len(packet) and not _vp9_head(packet) & 0b110 else "none"
            case "av1" | "libdav1d":
                return "clean" if _av1_is_key(packet) else "none"
            case "mpeg4":
                return "open"  # in mpeg1video and mpeg2video, B-frames alone may refer back, and they are left out
        return "clean" if self.codec in SEEKABLE else "none"

    @property
    def hides_frames(self) -> bool:
        """True if some packets may hold no frame that is shown."""
        return self.codec in ("vp8", "vp9")

    def is_shown(self, packet: memoryview) -> bool:
        """Returns False for a hidden frame of VP8 or VP9, which isn't shown and only serves later frames."""
        if self.codec == "vp8":
            return len(packet) > 0 and bool(packet[0] & 16)
        if self.codec == "vp9" and len(packet):
            is_superframe = packet[-1] & 0xE0 == 0xC0
            return is_superframe or bool(_vp9_head(packet) & 0b101)
        return True

    def is_droppable(self, packet: memoryview) -> bool:
        """Returns True if no other frame refers to this one: it needs decoding only if it is wanted itself."""
        match self.codec:
            case "h264":
                head = next((head for head, _ in self._units(packet) if head & 31 in _H264_SLICES), 0xFF)
                return not head & 0x60
            case "hevc":
                return self._is_hevc_droppable(packet)
            case "mpeg1video" | "mpeg2video":
                at = bytes(packet[:4096]).find(b"\x00\x00\x01\x00")
                return 0 <= at < len(packet) - 5 and packet[at + 5] >> 3 & 7 == 3
            case "mpeg4":
                at = bytes(packet[:4096]).find(b"\x00\x00\x01\xb6")
                return 0 <= at < len(packet) - 4 and packet[at + 4] >> 6 == 2
        return False

    def _h264_start(self, packet: memoryview) -> Start:
        recovers = False
        for head, at in self._units(packet):
            kind = head & 31
            if kind == 5:
                return "clean"
            if kind in _H264_SLICES:
                return "open" if recovers else "none"
            recovers = recovers or (kind == 6 and _recovers_at_once(packet[at + 1 : at + 256]))
        return "none"

    def _is_hevc_droppable(self, packet: memoryview) -> bool:
        for head, at in self._units(packet):
            kind = head >> 1 & 63
            if kind < 32:
                layer = packet[at + 1] & 7 if at + 1 < len(packet) else 0
                return kind in _HEVC_UNREFERENCED and layer == self.temporal_layers
        return False

    def _units(self, packet: memoryview) -> Iterator[tuple[int, int]]:
        """Yields the first byte of each NAL unit, and its position."""
        if not self.length_bytes:
            yield from _marked_units(packet)
            return
        at = 0
        while at + self.length_bytes < len(packet):
            length = int.from_bytes(packet[at : at + self.length_bytes], "big")
            yield packet[at + self.length_bytes], at + self.length_bytes
            at += self.length_bytes + length


def group_number(packet: memoryview, frames_a_second: int) -> int | None:
    """Reads the number, since midnight, of an MPEG-1 or MPEG-2 group's I picture from its time code; None for no group.

    The code, ISO/IEC 13818-2, 6.3.8, has 25 bits: drop flag, hours, minutes, a 1, seconds, pictures. It is that of the
    picture that is shown first, and a group's I picture, which comes first in the file, has its own place in the group.
    With the drop flag two numbers are left out each minute, but for every tenth: 00:01:00;02 → 1800 at 30 a second.
    """
    head = bytes(packet[:4096])
    group, picture = head.find(b"\x00\x00\x01\xb8"), head.find(b"\x00\x00\x01\x00")
    if not 0 <= group < picture < len(head) - 6:
        return None
    code = int.from_bytes(head[group + 4 : group + 8], "big") >> 7
    minutes = (code >> 19 & 31) * 60 + (code >> 13 & 63)
    left_out = 2 * (minutes - minutes // 10) if code >> 24 else 0
    place = int.from_bytes(head[picture + 4 : picture + 6], "big") >> 6
    return (minutes * 60 + (code >> 6 & 63)) * frames_a_second + (code & 63) - left_out + place


def _marked_units(packet: memoryview) -> Iterator[tuple[int, int]]:
    data = bytes(packet)
    at = data.find(b"\x00\x00\x01")
    while 0 <= at < len(data) - 3:
        yield data[at + 3], at + 3
        at = data.find(b"\x00\x00\x01", at + 3)


def _recovers_at_once(message: memoryview) -> bool:
    """Returns True if an SEI unit has a recovery point with the frame count 0.

    06 01 80 → payload type 6, one byte, whose first bit "1" is the number 0.
    """
    at = 0
    while at + 2 < len(message):
        kind, at = _sei_number(message, at)
        size, at = _sei_number(message, at)
        if kind == 6:
            return at < len(message) and message[at] >= 0x80
        at += size
    return False


def _sei_number(message: memoryview, at: int) -> tuple[int, int]:
    """Reads a number; returns it and the position after it: ff ff 03 → 513."""
    number = 0
    while at < len(message) and message[at] == 0xFF:
        number, at = number + 255, at + 1
    return number + (message[at] if at < len(message) else 0), at + 1


def _layers(extradata: bytes) -> int:
    """Reads HEVC's temporal layers from the sequence parameter set among start-coded units; 0 if there is none."""
    for head, at in _marked_units(memoryview(extradata)):
        if head >> 1 & 63 == 33 and at + 2 < len(extradata):
            return (extradata[at + 2] >> 1 & 7) + 1
    return 0


def _vp9_head(packet: memoryview) -> int:
    """Returns three bits of the header: show_existing_frame, frame_type (0 is a key frame), show_frame.

    Before them come the frame marker "10", two bits of the profile, and one more bit for profile 3.
    """
    is_profile_3 = packet[0] >> 4 & 3 == 3
    return (packet[0] if is_profile_3 else packet[0] >> 1) & 7


def _av1_is_key(packet: memoryview) -> bool:
    """Returns True for a temporal unit with a sequence header whose first frame is a shown key frame."""
    at, has_sequence = 0, False
    while at < len(packet):
        kind, has_extension, has_size = packet[at] >> 3 & 15, packet[at] & 4, packet[at] & 2
        at += 2 if has_extension else 1
        size, at = _leb128(packet, at) if has_size else (len(packet) - at, at)
        if kind == 1:
            has_sequence = True
        elif kind in (3, 6):
            return has_sequence and at < len(packet) and packet[at] & 0xF0 == 0x10
        at += size
    return False


def _leb128(packet: memoryview, at: int) -> tuple[int, int]:
    """Reads a LEB128 number; returns it and the position after it: e5 8e 26 → 624485."""
    number = 0
    for shift in range(0, 56, 7):
        if at >= len(packet):
            break
        byte, at = packet[at], at + 1
        number |= (byte & 0x7F) << shift
        if not byte & 0x80:
            break
    return number, at
