"""How far each form of the weights is from fp32 on the CPU: `python -m training.forms [--clips N] [--seed S]`.

For the demo model and held-out files: the share of answers that are those of fp32 to the letter, and the error of the
logits before the first token, as a part of their standard deviation. nf4 is what bitsandbytes makes of 4 bits on a GPU.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from training.evaluate import GREEDY, PLAN
from training.heldout import HeldOut, make
from vllava_cli.answers import Conversation
from vllava_cli.demo import CHECKPOINT
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.generate import Engine
from vllava_cli.engine.kv_cache import Prompt
from vllava_cli.engine.load import load
from vllava_cli.engine.tokens import read_tokens
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Frames, Framing, LoadPlan, Source

HELD = replace(PLAN, is_held=True)
FORMS: dict[str, LoadPlan] = {
    "fp16": replace(HELD, dtype="float16"),
    "bf16": replace(HELD, dtype="bfloat16"),
    "8bit": replace(HELD, quantisation="8bit"),
    "4bit": replace(HELD, quantisation="4bit"),
    "nf4": replace(PLAN, quantisation="4bit"),
}
Said = dict[tuple[str, str], tuple[str, torch.Tensor]]
"""The answer to each file's question, and the logits [vocabulary] before its first token."""


def answers(plan: LoadPlan, held_out: Iterable[tuple[HeldOut, Frames]]) -> Said:
    """Asks all questions of a model that is loaded by this plan."""
    tokens = read_tokens(describe(Source(model="demo", folder=CHECKPOINT)))
    engine: Engine = load(plan, tokens, ["video", "image"])
    found: Said = {}
    for shown, frames in held_out:
        for item in shown.items:
            conversation = Conversation(attached=(frames,))
            ids = tuple(tokens.prompt_ids(conversation, item.question))
            logits = engine.read(Prompt(ids=ids, media=(frames,))).float().clone()
            text = "".join(engine.stream(conversation, item.question, GREEDY))
            found[str(shown.path), item.question] = text, logits
    return found


def _lines(held_out: list[tuple[HeldOut, Frames]]) -> Iterator[str]:
    exact = answers(PLAN, held_out)
    yield f"{len(exact)} questions about {len(held_out)} files; the answers that are fp32's, the error of the logits:\n"
    for name, plan in FORMS.items():
        said = answers(plan, held_out)
        same = sum(said[key][0] == text for key, (text, _) in exact.items())
        errors = [_error(said[key][1], logits) for key, (_, logits) in exact.items()]
        yield f"{name:5}{same / len(exact):7.1%}  {sum(errors) / len(errors):.4f}\n"


def _error(found: torch.Tensor, exact: torch.Tensor) -> float:
    return float((found - exact).norm() / (exact - exact.mean()).norm())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        held_out = [(shown, sample(shown.path, Framing())) for shown in make(Path(folder), given.clips, given.seed)]
        sys.stdout.writelines(_lines(held_out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
