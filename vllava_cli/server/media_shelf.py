"""Frames of clips that were asked about, kept while they are used: the same clip is decoded once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.select import spread
from vllava_cli.nouns import DecodeLimits, Frames, Framing


@dataclass(kw_only=True)
class MediaShelf:
    """Reads clips in bounded processes that stay, and returns the same `Frames` for the same pixels."""

    limits: DecodeLimits = field(default_factory=DecodeLimits)
    decoders: int = 1

    def __post_init__(self) -> None:
        self._client = DecoderClient(self.limits)

    def frames(self, path: Path, framing: Framing) -> Frames:
        """Returns the eight frames of a file; waits, so call it in a thread. Errors: MediaError, UsageError."""
        return spread(self._client.sample(path, framing), framing.fit)

    def close(self) -> None:
        self._client.kill()
