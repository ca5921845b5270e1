"""What the words of a bench's command line mean together. Pure, but for a look whether a word is a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vllava_cli import demo
from vllava_cli.commands.bench.request import Bench, Outputs
from vllava_cli.commands.positionals import names_a_clip
from vllava_cli.errors import UsageError
from vllava_cli.nouns import STDIN

USAGE = 'vllava bench [CLIP] ["QUESTION"]'
QUESTION = "What happens in this video?"
OUR_CLIP = demo.CLIPS / "red-circle-moves-left.mp4"


def words_of(words: Sequence[str]) -> tuple[Path | None, str]:
    """[] → None, the usual question · ["a.mp4"] → a.mp4, it · ["Why?"] → None, "Why?" · ["a.mp4", "Why?"] → both.

    Errors: UsageError.
    """
    if len(words) > 2:
        raise UsageError(f"bench measures with one clip and one question, and {len(words)} words were given: {USAGE}.")
    if STDIN in words:
        raise UsageError("A clip from stdin, -, is read once, and bench reads it often: save it to a file, name that.")
    clip, question = _parted(words)
    if not question.strip():
        raise UsageError(f"The question is empty: {USAGE}.")
    return (Path(clip) if clip is not None else None), question


def outputs_of(save: Path | None, compare: Path | None, plot: Path | None, *, is_json: bool) -> Outputs:
    """Errors: UsageError."""
    if plot is not None and plot.suffix.lower() != ".png":
        raise UsageError(f"--plot writes PNG, and {plot.name!r} doesn't end in .png: name it so.")
    if plot is not None and plot in (save, compare):
        raise UsageError(f"--plot would replace what is in {plot.name!r}: name another file.")
    return Outputs(is_json=is_json, save=save, compare=compare, plot=plot)


def check(bench: Bench) -> None:
    """Raises a UsageError for what doesn't go together."""
    if bench.random is not None and bench.revision is not None:
        raise UsageError("--random-weights reads no model, so it has no --revision. Leave one of them out.")
    if not bench.is_frames_only:
        return
    names = [(each.precision, each.attention) for each in bench.configurations]
    about_models = (
        ("--random-weights", bench.random is not None),
        ("--precision", any(precision != "auto" for precision, _ in names)),
        ("--attention", any(attention != "auto" for _, attention in names)),
        ("--plot", bench.outputs.plot is not None),
    )
    for option, is_given in about_models:
        if is_given:
            raise UsageError(f"--frames-only measures no model, and {option} is about one. Leave one of them out.")


def _parted(words: Sequence[str]) -> tuple[str | None, str]:
    if len(words) == 2:
        return words[0], words[1]
    if not words:
        return None, QUESTION
    return (words[0], QUESTION) if names_a_clip(words[0]) else (None, words[0])
