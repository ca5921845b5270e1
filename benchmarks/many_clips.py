"""Decodes many short clips to see what safety costs: `python -m benchmarks.many_clips plain|guarded FILE…`.

Prints one JSON object: the seconds of all files, and those that starting the decoding process took.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Frames, Framing

Sampler = Callable[[Path, Framing], Frames]


def seconds_of_all(sampler: Sampler, paths: Sequence[Path]) -> tuple[float, float]:
    """Returns the seconds of all files with everything warm, and how much longer the first one took before."""
    first_s, again_s = (_seconds(sampler, paths[:1]) for _ in range(2))
    return _seconds(sampler, paths), first_s - again_s


def _seconds(sampler: Sampler, paths: Sequence[Path]) -> float:
    started = time.perf_counter()
    for path in paths:
        sampler(path, Framing())
    return time.perf_counter() - started


def main(way: str, names: Sequence[str]) -> None:
    paths = [Path(name) for name in names]
    if way == "plain":
        seconds, start_s = seconds_of_all(sample, paths)
    else:
        with DecoderClient() as guard:
            seconds, start_s = seconds_of_all(guard.sample, paths)
    sys.stdout.write(json.dumps({"seconds": seconds, "start_s": start_s}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
