"""The benchmarks for developers: scripts/bench-frames, bench-batch, bench-start, simulate. Not installed."""
