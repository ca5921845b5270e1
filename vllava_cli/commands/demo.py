"""`vllava demo`: what the embedded model can be asked, and where its clips are."""

from vllava_cli import demo
from vllava_cli.screen import Screen

ABOUT = (
    "The demo model is a tiny Video-LLaVA trained from scratch on moving shapes. It shows that the tool works on this "
    "machine; it says nothing about the 7B model's quality."
)


def run(screen: Screen, *, paths_only: bool = False) -> int:
    """Prints the clips' paths, or those with the questions that fit them."""
    if paths_only:
        for clip in demo.clips():
            screen.answer(f"{clip}\n")
        return 0
    screen.facts([("", ABOUT)], is_answer=True)
    screen.answer("\nClips\n")
    for clip in demo.clips():
        screen.answer(f"  {clip}\n")
    screen.answer("\nTry\n")
    paths = {clip.name: clip for clip in demo.clips()}
    for name, question, answer in demo.QUESTIONS:
        screen.answer(f'  vllava ask --model demo {paths[name]} "{question}"\n    {answer}\n')
    return 0
