"""Bootstrap intervals of means: clips are drawn, not rows, as the rows about one clip aren't independent."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import complex128, float64, int64
    from numpy.typing import NDArray

RESAMPLES = 2000
_SEED = 20_220_731
_MOST_KINDS = 4096


def interval(values: NDArray[float64], clips: NDArray[int64]) -> tuple[float, float] | None:
    """Returns the ends of the 95 % percentile interval of a mean; None for less than two clips.

    `clips` has the number of each value's clip, from 0. The same values give the same ends each time.
    """
    import numpy as np

    if not len(values):
        return None
    sums = np.bincount(clips, values)
    counts = np.bincount(clips)
    whole = (sums + 1j * counts)[counts > 0]
    if len(whole) < 2:
        return None
    kinds, often = np.unique(whole.round(12), return_counts=True)
    if len(kinds) > max(_MOST_KINDS, len(whole) // 8):
        return _drawn(whole)
    return _counted(kinds.tobytes(), often.tobytes())


@lru_cache(maxsize=1 << 14)
def _counted(kinds: bytes, often: bytes) -> tuple[float, float]:
    """Draws how often each kind of clip comes, which has the distribution of drawing the clips themselves."""
    import numpy as np

    pairs, counts = np.frombuffer(kinds, np.complex128), np.frombuffer(often, np.int64)
    total = int(counts.sum())
    # In steps, so that 2,000 resamples of thousands of kinds don't lie in memory at once.
    step = max(1, (1 << 20) // len(pairs))
    random = np.random.default_rng(_SEED)
    sizes = [min(step, RESAMPLES - begin) for begin in range(0, RESAMPLES, step)]
    return _ends(np.concatenate([random.multinomial(total, counts / total, size) @ pairs for size in sizes]))


def _drawn(whole: NDArray[complex128]) -> tuple[float, float]:
    import numpy as np

    random = np.random.default_rng(_SEED)
    sums = [whole[random.integers(0, len(whole), len(whole), dtype=np.int32)].sum() for _ in range(RESAMPLES)]
    return _ends(np.array(sums))


def _ends(sums: NDArray[complex128]) -> tuple[float, float]:
    import numpy as np

    low, high = np.quantile(sums.real / sums.imag, (0.025, 0.975))
    return float(low), float(high)
