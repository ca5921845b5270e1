"""What an estimate is made of: a few clips are decoded, and the device is measured. No weight is read."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vllava_cli.commands.batch import here
from vllava_cli.commands.batch.estimate import MOST_SAMPLED, Amount, Estimate, Means, estimate, evenly
from vllava_cli.commands.batch.preflight import Found
from vllava_cli.commands.batch.request import Batch
from vllava_cli.commands.batch.units import Unit
from vllava_cli.memory_estimate import Form, weight_bytes
from vllava_cli.nouns import Checkpoint, Framing, Hardware, LoadPlan

if TYPE_CHECKING:
    from vllava_cli.engine.hub import Source
    from vllava_cli.media.pool import Pool


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is known when the headers are."""

    batch: Batch
    source: Source
    found: Found
    decoders: int
    devices: tuple[str, ...]
    import_s: float

    def estimate(self, pool: Pool, is_interrupted: Callable[[], bool]) -> Estimate:
        """Errors: any VllavaError that the run would end with before it loads the model."""
        from vllava_cli.engine.yardstick import measured, planned
        from vllava_cli.hardware import probe

        batch, found = self.batch, self.found
        checkpoint = here.read_tokens(self.source).checkpoint
        wishes = replace(batch.wishes, device=self.devices[0]) if self.devices else batch.wishes
        hardware = probe()
        chosen = planned(wishes, hardware, checkpoint)
        clip_s = seconds_per_clip(pool, found.good, batch.framing, is_interrupted)
        means = Means(
            checkpoint=checkpoint,
            weight_bytes=_weight_bytes(checkpoint, chosen),
            speed=measured(chosen),
            rows_at_once=batch.most_rows or _rows(batch, checkpoint, chosen, hardware, found.good),
            clip_s=clip_s,
            decoders=self.decoders,
            cores=hardware.cpu_cores,
            import_s=self.import_s,
            devices=max(1, len(self.devices)),
            is_on_cpu=chosen.device == "cpu",
        )
        return estimate(amount_of(found), means, batch.sampling)


def amount_of(found: Found) -> Amount:
    """A clip that took too long to open counts as a video."""
    return Amount(
        videos=found.videos + found.unopened,
        images=len(found.good) - found.videos - found.unopened,
        questions=sum(len(unit.questions()) for unit in found.good),
    )


def seconds_per_clip(pool: Pool, units: Sequence[Unit], framing: Framing, is_interrupted: Callable[[], bool]) -> float:
    """Of a few of them, evenly spread, while all of the pool's processes read."""
    sampled = evenly(units)
    started_s = time.perf_counter()
    ahead = pool.frames(((unit, unit.path) for unit in sampled), framing)
    while ahead.take(MOST_SAMPLED, is_waiting=True, is_interrupted=is_interrupted):
        pass
    return (time.perf_counter() - started_s) / max(1, len(sampled))


def _weight_bytes(checkpoint: Checkpoint, chosen: LoadPlan) -> float:
    context = chosen.context_tokens or checkpoint.context_tokens
    form = Form(dtype=chosen.dtype, quantisation=chosen.quantisation, context_tokens=context)
    return weight_bytes(checkpoint, form)


def _rows(batch: Batch, checkpoint: Checkpoint, chosen: LoadPlan, hardware: Hardware, units: Sequence[Unit]) -> int:
    """As many as a loaded engine would find room for."""
    from vllava_cli.engine.batch_size import MOST_ON_CPU, MOST_ON_GPU, row_tokens, rows_in

    gpu = next((gpu for gpu in hardware.accelerators if gpu.device == chosen.device), None)
    free_bytes = (gpu.free_bytes if gpu else hardware.ram_free_bytes) - _weight_bytes(checkpoint, chosen)
    longest = max(len(job.question) for unit in units for job in unit.jobs)
    tokens = min(row_tokens(checkpoint, batch.sampling, longest), chosen.context_tokens or checkpoint.context_tokens)
    value_bytes = 4 if chosen.dtype == "float32" else 2
    row_bytes = checkpoint.cache_values_per_token * tokens * value_bytes
    return rows_in(int(free_bytes), row_bytes, most=MOST_ON_GPU if gpu else MOST_ON_CPU)
