"""What is measured, as commands that anyone can run: scripts/bench-frames, scripts/bench-batch. Not installed."""
