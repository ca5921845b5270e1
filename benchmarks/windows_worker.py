"""The worker of bench-time: `python -m benchmarks.windows_worker decode|model|both FILE EVERY_S DECODERS MODEL`.

decode reads the frames of all windows and does nothing else; model reads them first, then measures the answers alone;
both does it as `vllava batch` does, with the frames read ahead. It prints one JSON object.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from vllava_cli.answers import Sampling
from vllava_cli.batch.executors import local
from vllava_cli.engine.adapter import locate
from vllava_cli.engine.answering import AnswerRequest, AnswerResult
from vllava_cli.engine.batch import BatchScheduler, rows_that_fit
from vllava_cli.engine.device_speed import planned
from vllava_cli.engine.load import load
from vllava_cli.hardware import probe
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.decoder.pool import Pool
from vllava_cli.nouns import (
    SILENT,
    DecodeLimits,
    Frames,
    Framing,
    Windowing,
    Wishes,
)

QUESTION = "What happens in this video?"
TOKENS = 16


def main() -> None:
    part, name, every_s, decoders, model = sys.argv[1:]
    path, wishes = Path(name), Wishes(model=model)
    local.import_engine()
    tokens = local.read_tokens(locate(wishes, SILENT))
    with DecoderClient(DecodeLimits()) as decoder:
        divided = decoder.windows(Windowing(every_s=float(every_s)), Framing(), path)
    with Pool(int(decoders)) as pool:
        pool.fit_to(tokens.checkpoint.video_recipe)
        engine = None
        if part != "decode":
            plan = planned(wishes, probe(), tokens.checkpoint.seeing({"video"}))
            engine = load(plan, tokens, {"video"})
        began_s = time.perf_counter()
        reads = pool.frames((number, path, each.framing(Framing())) for number, each in enumerate(divided.windows))
        waiting: deque[tuple[int, Frames]] = deque()

        def take(most: int, *, is_waiting: bool) -> list[tuple[int, Frames]]:
            taken = reads.take(most, is_waiting=is_waiting)
            return [(read.key, read.found) for read in taken if read.found]

        if part != "both":
            while not reads.is_over:
                waiting += take(64, is_waiting=True)
        read_s, began_s = time.perf_counter() - began_s, time.perf_counter() if part == "model" else began_s
        count = len(waiting)

        def source(most: int, *, is_waiting: bool) -> list[AnswerRequest[int] | AnswerResult[int]] | None:
            its = [waiting.popleft() for _ in range(min(most, len(waiting)))]
            its = its or ([] if part == "model" else take(most, is_waiting=is_waiting))
            if not its and reads.is_over:
                return None
            return [AnswerRequest(key=key, medium=frames, question=QUESTION) for key, frames in its]

        found: dict[str, Any] = {"windows": len(divided.windows), "read": count, "decode_s": read_s}
        if engine:
            sampling = Sampling(max_new_tokens=TOKENS)
            batching: BatchScheduler[int] = BatchScheduler(
                engine=engine,
                sampling=sampling,
                fit="crop",
                most_rows=rows_that_fit(engine, sampling, question_characters=len(QUESTION)),
            )
            found["answers"] = sum(1 for _ in batching.answers(source))
            found["answering_s"] = time.perf_counter() - began_s
        found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
