"""The request of one `vllava find`: what is looked for and where, and the questions that a query becomes.

The functions are pure, except that they check whether a word is a file. Errors of each function: UsageError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from vllava_cli.answers import Sampling
from vllava_cli.batch.request import BatchRequest, Inputs
from vllava_cli.commands.start import names_a_clip
from vllava_cli.errors import UsageError
from vllava_cli.nouns import (
    DEMO_MODEL,
    OFF,
    STDIN,
    DecodeLimits,
    Framing,
    Windowing,
    Wishes,
)
from vllava_cli.search.extracts import Extracts
from vllava_cli.search.manner import Manner

USAGE = 'vllava find "QUERY" PATH…'
USAGE_E = 'vllava find -e "QUERY" -e "QUERY" PATH…'
CHOICES = ("Yes", "No")
"""The answers whose likelihoods are compared, written as the model begins its answers. Of "yes" and "no" in lower case,
which it never writes, the demo model's likelihoods say nothing."""
BLANK_CHOICE = "No"
"""The right answer about a blank clip, in which there is nothing and nothing happens."""
_REGULAR = (
    "appear bark begin bounce break burn climb close come dance disappear drive eat enter explode fall fight grow jump "
    "laugh leave move open ride rise rotate run shrink sing sit sleep smile speak spin stand start stop swim talk turn "
    "walk wave write"
)
VERBS = {f"{verb}s": verb for verb in _REGULAR.split()} | {
    f"{verb}es": verb for verb in ("catch", "crash", "cross", "go", "push", "touch", "vanish", "wash", "watch")
}
"""The verbs that make a query a sentence: "moves" → "move"."""
ARTICLES = ("a", "an", "the")
_SUBJECTS = (*ARTICLES, "it", "he", "she", "someone", "somebody", "something")
_LINKS = ("with", "of", "in", "on", "at", "by", "from", "for", "to", "that", "who", "which", "and", "or", "near")
"""A verb behind one of these describes the thing that is looked for: "a person who talks" is no sentence."""


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """The request of one `vllava find`, with all its options."""

    queries: tuple[str, ...]
    paths: tuple[str, ...]
    is_recursive: bool = False
    wishes: Wishes
    framing: Framing = field(default_factory=Framing)
    windowing: Windowing
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    is_calibrated: bool = True
    most_rows: int | None = None
    decoders: int | None = None
    has_clip_cache: bool = False
    server: str = OFF
    """The same as in `Ask`."""
    has_answer_cache: bool = True
    manner: Manner = field(default_factory=Manner)
    extracts: Extracts = field(default_factory=Extracts)

    def batch(self, clips: Sequence[str]) -> BatchRequest:
        """Makes the batch that asks the questions of the queries about each window of these clips."""
        # A file that is called "-" isn't stdin.
        paths = tuple(f"./{STDIN}" if clip == STDIN else clip for clip in clips)
        questions = dict.fromkeys(question for query in self.queries for question in questions_of(query))
        return BatchRequest(
            inputs=Inputs(paths=paths, questions=tuple(questions)),
            wishes=Wishes(model=DEMO_MODEL) if self.manner.is_text_only else self.wishes,  # which isn't loaded
            framing=self.framing,
            sampling=Sampling(
                choices=CHOICES,
                is_calibrated=self.is_calibrated,
                blank_choice=BLANK_CHOICE if self.is_calibrated else "",
            ),
            limits=self.limits,
            most_rows=self.most_rows,
            decoders=self.decoders,
            has_clip_cache=self.has_clip_cache,
            server=self.server,
            windowing=self.windowing,
        )


def questions_of(query: str) -> tuple[str, ...]:
    """Makes the questions of a query; a window shows what is looked for if the answer to each of them is yes.

    "a red circle" → "Is there a red circle?" · "moves left" → "Does it move left?" · "Does it rain?" → the same ·
    "a circle moves" → "Is there a circle?", "Does the circle move?"

    A query is a sentence if it begins with an article or a pronoun and has one of VERBS behind the thing that it names,
    or if it begins with one of VERBS. Models say yes where a question takes something for granted that isn't there, so
    the thing itself is asked for, too. A query that ends with a question mark is asked as it stands.
    """
    text = " ".join(query.split())
    if text.endswith("?"):
        return (text,)
    words = text.rstrip(".!").split(" ")
    if words[0].lower() in VERBS:
        words = ["it", *words]
    place = _verb_in(words)
    if place is None:
        return (f"Is there {' '.join(words)}?",)
    thing, verb, rest = words[:place], VERBS[words[place].lower()], words[place + 1 :]
    is_named = thing[0].lower() in ARTICLES
    asked = " ".join(["Does", *(["the", *thing[1:]] if is_named else thing), verb, *rest])
    return (*([f"Is there {' '.join(thing)}?"] if is_named else []), f"{asked}?")


def _verb_in(words: Sequence[str]) -> int | None:
    """Returns the place of a sentence's verb; None if the words are no sentence: "a man who talks", "two stops"."""
    if words[0].lower() not in _SUBJECTS:
        return None
    for place, word in enumerate(map(str.lower, words[1:]), 1):
        is_further = word in _LINKS or (place > 1 and word.endswith("ing"))
        if is_further or word in VERBS:
            return None if is_further else place
    return None


def words_of(
    words: Sequence[str], queries: Sequence[str], *, is_recursive: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the queries and the paths: the first word is the query, unless -e gives some. -r alone looks in "."."""
    if any(not query.strip() for query in (*queries, *words[:1])):
        raise UsageError(f"A query or a path is empty: {USAGE}.")
    if not queries and not words:
        raise UsageError(f"No query and no path was given: {USAGE}.")
    if not queries and (words[0] == STDIN or names_a_clip(words[0])):
        raise UsageError(f"{words[0]!r} is a path where the query is expected: {USAGE}, or {USAGE_E}.")
    paths = tuple(words if queries else words[1:]) or (".",) * is_recursive
    if not paths:
        raise UsageError(f"No path was given: {USAGE_E if queries else USAGE}, or - to read paths from stdin.")
    return tuple(dict.fromkeys(queries or words[:1])), paths
