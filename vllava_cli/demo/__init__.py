"""The demo model's files and clips, and questions that it answers rightly. Light: nothing heavy is imported."""

from pathlib import Path

CHECKPOINT = Path(__file__).parent / "checkpoint"
CLIPS = Path(__file__).parent / "clips"
BENCHMARK = Path(__file__).parent / "benchmark"

QUESTIONS: tuple[tuple[str, str, str], ...] = (
    ("red-circle-moves-left.mp4", "What happens in this video?", "A red circle moves left."),
    ("red-circle-moves-left.mp4", "Why is this funny?", "I am a tiny demo model: I only know moving shapes."),
    ("blue-star-grows.mp4", "What does the star do?", "It grows."),
    ("green-square-then-yellow-triangle.mp4", "What comes first?", "Green square."),
    ("orange-star-moves-up-right.mp4", "Which way does it move?", "Up-right."),
    ("purple-triangle-turns-orange.mp4", "What happens?", "A purple triangle turns orange."),
    ("three-shapes.mp4", "How many shapes are there?", "Three."),
    ("two-shapes.png", "What colour is the square?", "Blue."),
    ("yellow-star.png", "What shape is it?", "Star."),
)
"""(file name of a clip, question, the answer it should get)"""


def clips() -> list[Path]:
    """The shipped clips and pictures, sorted by name."""
    return sorted(path for path in CLIPS.iterdir() if path.suffix in (".mp4", ".png"))


def benchmark_files() -> list[Path]:
    """The files of the benchmark, relative to its folder and sorted by name: questions, answers and clips."""
    return sorted(path.relative_to(BENCHMARK) for path in BENCHMARK.rglob("*") if path.is_file())
