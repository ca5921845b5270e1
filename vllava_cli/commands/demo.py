"""`vllava demo`: prints what the embedded model can be asked, and where its clips are; copies its benchmark."""

import shlex
from pathlib import Path

from vllava_cli import demo
from vllava_cli.errors import UsageError, quoted
from vllava_cli.screen import Screen
from vllava_cli.storage.files import as_output_error

ABOUT = (
    "The demo model is a tiny Video-LLaVA, trained from scratch on moving shapes. It shows that the tool works on this "
    "machine; it says nothing about the 7B model's quality. It knows circles, squares, triangles and stars in red, "
    "orange, yellow, green, blue and purple on black, gray or white. Anything else it refuses."
)
KINDS = (
    ("colour", "What colour is it? What colour is the star?"),
    ("shape", "What shape is it? What shape is the red one?"),
    ("number", "How many shapes are there?"),
    ("background", "What colour is the background?"),
    ("direction", "Which way does it move? (of a shape that is alone)"),
    ("order", "What comes first? What comes after the red star?"),
    ("action", "What happens in this video? What does the circle do?"),
    ("yes/no", "Is there a red star? Does it move? Does the circle grow?"),
)
BENCHMARK_SAID = "35 clips with 239 questions and their right answers, to try batch, score and report."


def run(screen: Screen, *, paths_only: bool = False) -> int:
    """Prints what the demo model can be asked, its clips, and commands to try; or the clips' paths alone."""
    if paths_only:
        screen.answer("".join(f"{clip}\n" for clip in demo.clips()))
        return 0
    screen.facts([("", ABOUT)], is_answer=True)
    screen.answer("\nAsk about\n")
    screen.facts([(f"  {kind}", examples) for kind, examples in KINDS], is_answer=True)
    screen.answer("\nClips\n")
    screen.answer("".join(f"  {clip}\n" for clip in demo.clips()))
    screen.answer("\nTry\n")
    for name, question, answer in demo.QUESTIONS:
        path = shlex.quote(str(demo.CLIPS / name))
        screen.answer(f'  vllava ask --model demo {path} "{question}"\n    {answer}\n')
    screen.answer(f"  vllava demo --benchmark demo-bench\n    {BENCHMARK_SAID}\n")
    return 0


def copy_benchmark(screen: Screen, folder: Path, *, paths_only: bool = False) -> int:
    """Copies the benchmark to a new or empty folder, and prints commands to try; or the paths of the copies alone.

    Errors: UsageError if the folder has files; OutputError.
    """
    with as_output_error(folder):
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{quoted(folder)} exists and isn't an empty folder: name a new one.")
        copies = [_copied(folder, name) for name in demo.benchmark_files()]
    if paths_only:
        screen.answer("".join(f"{path}\n" for path in copies))
        return 0
    jobs, videos, rows, page = (
        shlex.quote(str(folder / name)) for name in ("choices.jsonl", "videos", "rows.jsonl", "report.html")
    )
    screen.answer(f"{folder}\n")
    screen.answer(f"\nTry\n  vllava batch --jobs {jobs} --videos {videos} --model demo -o {rows}\n")
    screen.answer(f"  vllava score {rows} --by type\n  vllava report {rows} -o {page}\n")
    return 0


def _copied(folder: Path, name: Path) -> Path:
    """Copies the content alone: an installed package may be read-only, and its copy should not."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((demo.BENCHMARK / name).read_bytes())
    return path
