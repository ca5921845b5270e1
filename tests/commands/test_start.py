"""What is planned before a model is loaded."""

from __future__ import annotations

from vllava_cli.commands.start import start
from vllava_cli.demo import CHECKPOINT
from vllava_cli.engine.checkpoint import describe
from vllava_cli.engine.tokens import Tokens, read_tokens
from vllava_cli.nouns import SILENT, MediaKind, Source, Wishes
from vllava_cli.times import Stopwatch


def needed_bytes(tokens: Tokens, *kinds: MediaKind) -> int:
    wishes = Wishes(model="demo", device="cpu", precision="fp32")
    engine, _ = start(wishes, tokens, kinds, SILENT, Stopwatch(), check=str)
    return engine.plan.needed_bytes


def test_memory_is_planned_for_the_towers_that_are_loaded() -> None:
    tokens = read_tokens(describe(Source(model="demo", folder=CHECKPOINT)))
    tower_bytes = tokens.checkpoint.tower_parameters * 4
    both = needed_bytes(tokens, "video", "image")
    assert tower_bytes > 0
    assert needed_bytes(tokens, "image") == needed_bytes(tokens, "video") == both - tower_bytes
