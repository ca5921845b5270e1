"""`vllava demo`: prints what the embedded model can be asked, and where its clips are."""

import shlex

from vllava_cli import demo
from vllava_cli.screen import Screen

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
    return 0
