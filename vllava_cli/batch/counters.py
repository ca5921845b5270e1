"""What is counted while answers are made, here or in other processes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(kw_only=True)
class Meter:
    """Of one engine; those of several add up."""

    clips: int = 0
    new_tokens: int = 0
    decode_s: float = 0.0
    """Summed over the processes that decode."""
    idle_s: float = 0.0
    """How long the engine waited for frames."""
    load_s: float = 0.0
    tower_calls: int = 0
    rows_at_once: int = 0
    used_bytes: int | None = None
    """Of a GPU's memory, held by this process."""

    def add(self, other: Meter) -> None:
        """All add up but the loading, which happens side by side."""
        self.clips += other.clips
        self.new_tokens += other.new_tokens
        self.decode_s += other.decode_s
        self.idle_s += other.idle_s
        self.load_s = max(self.load_s, other.load_s)
        self.tower_calls += other.tower_calls
        self.rows_at_once += other.rows_at_once
        if other.used_bytes is not None:
            self.used_bytes = (self.used_bytes or 0) + other.used_bytes
