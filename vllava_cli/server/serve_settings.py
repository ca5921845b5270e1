"""The request of one `vllava serve`; no web library is imported here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vllava_cli.media.remote.policy import Allowed
from vllava_cli.nouns import DecodeLimits, Wishes

MOST_UPLOAD_BYTES = 1 << 30
MOST_BODY_BYTES = 64 << 20
_BODIES = 8


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """The request of one `vllava serve`."""

    wishes: Wishes
    host: str = "127.0.0.1"
    port: int | None = None
    """None listens on no port; 0 lets the system choose one."""
    token: str = ""
    names: tuple[str, ...] = ()
    """Further names by which a browser may reach the server, behind a proxy."""
    root: Path | None = None
    """The folder below which file: URLs may lie; None allows none."""
    allowed: Allowed = field(default_factory=Allowed)
    """The schemes of URLs that are fetched."""
    idle_s: float | None = None
    """The server ends after so long without a question; None never."""
    most_rows: int | None = None
    most_waiting: int = 256
    most_upload_bytes: int = MOST_UPLOAD_BYTES
    most_body_bytes: int = MOST_BODY_BYTES
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    decoders: int | None = None
    is_logging: bool = False
    """True if questions are written to stderr."""
    has_clip_cache: bool = True

    @property
    def most_held_bytes(self) -> int:
        """Returns the most memory for the bodies of all running requests: one of the largest clip, and some others."""
        return self.most_upload_bytes + _BODIES * self.most_body_bytes
