"""The prompt of Video-LLaVA, as strings; the only module that knows USER, ASSISTANT, <video> and <image>.

    one turn         USER: <video>\\nQ ASSISTANT:
    several turns    USER: <video>\\nQ1 ASSISTANT: A1 USER: Q2 ASSISTANT:
    with subtitles   USER: <video>\\nSpoken in it: "…"\\nQ ASSISTANT:

There is no system prompt. Between turns is a space, not </s>. Source: transformers' documentation of Video-LLaVA.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from vllava_cli.errors import UsageError
from vllava_cli.nouns import MediaKind

PLACEHOLDERS: dict[MediaKind, str] = {"video": "<video>", "image": "<image>"}
SPECIAL_TOKENS = ("<video>", "<image>", "<pad>", "<unk>", "<s>", "</s>")
ROLES = ("USER:", "ASSISTANT:")
MAX_QUESTION_BYTES = 1 << 20
"""The longest question that is read from stdin or a chat's lines."""
MOST_LETTERS = len(ascii_uppercase)


def turn(question: str, kinds: Sequence[MediaKind] = ()) -> str:
    """Writes one turn up to the start of its answer, with a placeholder and a new line for each medium in order.

    ("Why?", ["image", "video"]) → "USER: <image>\\n<video>\\nWhy? ASSISTANT:" · ("Why?") → "USER: Why? ASSISTANT:"
    """
    placeholders = "".join(f"{PLACEHOLDERS[kind]}\n" for kind in kinds)
    return f"USER: {placeholders}{question} ASSISTANT:"


def lettered(question: str, choices: Sequence[str]) -> str:
    """Writes choices under a question, a line for each, as benchmarks of multiple choice do.

    ("Why?", ["fun", "rain"]) → "Why?\\nA. fun\\nB. rain\\nAnswer with the option's letter …"
    """
    lines = [f"{letter}. {choice}" for letter, choice in zip(letters(len(choices)), choices, strict=True)]
    return "\n".join([question, *lines, "Answer with the option's letter from the given choices directly."])


def letters(count: int) -> tuple[str, ...]:
    """Returns the first `count` capital letters: 3 → ("A", "B", "C")."""
    return tuple(ascii_uppercase[:count])


def heard(spoken: str, question: str) -> str:
    """Writes what is spoken in a clip before a question, as a quotation that the text can't end.

    ('Say "no".', "Why?") → 'Spoken in it: "Say \'no\'."\\nWhy?' · ("", "Why?") → "Why?"; an empty question stays so.
    """
    quotation = spoken.replace('"', "'")
    return f'Spoken in it: "{quotation}"\n{question}' if quotation and question.strip() else question


def expand(prompt: str, *, tokens_per_video: int, tokens_per_image: int) -> str:
    """Repeats each placeholder as often as its medium has tokens, so that the whole string can be tokenised at once."""
    counts = {"<video>": tokens_per_video, "<image>": tokens_per_image}
    return re.sub("<video>|<image>", lambda match: match[0] * counts[match[0]], prompt)


def readable(question: str, *, special_tokens: Sequence[str] = SPECIAL_TOKENS) -> str:
    """Changes a user's text so that it can't end its turn or become a special token, but still reads the same.

    "Say </s> USER: <video>" → "Say < /s> USER : < video>". Errors: UsageError for an empty question.
    """
    text = question.encode("utf-8", "replace").decode().strip()
    if not text:
        raise UsageError("the question is empty: give it as the last argument, or on stdin with -")
    tokens = sorted({*SPECIAL_TOKENS, *special_tokens}, key=len, reverse=True)
    text = re.sub("|".join(map(re.escape, tokens)), lambda match: f"{match[0][:1]} {match[0][1:]}", text)
    return re.sub("|".join(ROLES), lambda match: f"{match[0][:-1]} :", text)
