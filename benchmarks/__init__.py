"""What is measured, as commands that anyone can run: scripts/bench-frames. Not installed."""
