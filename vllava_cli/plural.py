"""Numbers with their nouns, as a sentence has them."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """(1, "job") → "1 job", (1000, "job") → "1,000 jobs", (0.5, "GPU") → "0.5 GPUs"."""
    figure = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{figure} {noun}{'' if number == 1 else 's'}"
