"""The packets of a stream as an index lists them: when they come, their sizes, and which are key frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from av.packet import Packet
from av.video.stream import VideoStream

REORDERING = 64
"""The most packets after a wanted one that a decoder, with its threads, may need before it gives the frame."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PacketTable:
    """The packets of a stream in the file's order, a row each; none of them is read for it."""

    stamps: npt.NDArray[np.int64]
    """The pts of the packets, or their dts if `is_by_dts`."""
    sizes: npt.NDArray[np.int64]
    """Bytes."""
    keys: npt.NDArray[np.int64]
    """The rows of the key frames, ascending."""
    is_by_dts: bool = False

    @cached_property
    def key_stamps(self) -> npt.NDArray[np.int64]:
        """The stamps of the key frames, which ascend."""
        return self.stamps[self.keys]

    def row_of(self, packet: Packet[VideoStream]) -> int:
        """Returns the row of a key frame's packet; -1 if there is none."""
        stamp = packet.dts if self.is_by_dts else packet.pts
        place = 0 if stamp is None else int(np.searchsorted(self.key_stamps, stamp))
        is_it = place < len(self.keys) and int(self.key_stamps[place]) == stamp
        return int(self.keys[place]) if is_it else -1

    def first_shown(self, row: int) -> int:
        """Returns a pts before which no frame of a row, or of one behind it, is shown."""
        return int(self.stamps[row] if self.is_by_dts else self.stamps[row : row + REORDERING].min())
