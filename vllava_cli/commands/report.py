"""What is told about an answer: the object of --json and the sentence of --verbose. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vllava_cli.choices import by_choice
from vllava_cli.commands.provenance import MADE_WITH, Loaded, Making, ShownClip, sampling_row
from vllava_cli.nouns import Conversation, Frames, Stats, StopReason, Turn

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine


def report(conversation: Conversation, clips: Sequence[ShownClip], engine: Engine) -> dict[str, Any]:
    """The object that --json prints of the last turn; times in seconds, memory in bytes.

    `clips` say more of the conversation's media. Only an answer that was to be chosen has probabilities.
    """
    turn, plan, checkpoint = conversation.turns[-1], engine.plan, engine.tokens.checkpoint
    stats = turn.stats
    making = Making(
        loaded=Loaded.of(plan, checkpoint),
        fit=conversation.fit,
        clips=tuple(clips),
        sampling=turn.sampling,
        prompt_sha256=turn.prompt_sha256,
        answer_ids=turn.answer_ids,
    )
    return {
        "answer": turn.answer,
        **_probabilities(turn),
        "stop_reason": turn.stop_reason,
        "question": turn.question,
        "model": checkpoint.model,
        "revision": checkpoint.revision,
        "device": plan.device,
        "dtype": plan.dtype,
        "quantisation": plan.quantisation,
        "attention": plan.attention,
        "clips": [_clip_report(medium) for medium in conversation.media],
        "sampling": sampling_row(turn.sampling),
        "tokens": {"prompt": stats.prompt_tokens, "reused": stats.reused_tokens, "new": stats.new_tokens},
        "timings_s": {
            "frames": round(stats.frames_s, 4),
            "load": round(stats.load_s, 4),
            "first_token": round(stats.first_token_s, 4) if _has_token(stats, turn.stop_reason) else None,
            "decode": round(stats.decode_s, 4),
        },
        "peak_bytes": stats.peak_bytes,
        "stray": stats.stray_tokens,
        MADE_WITH: making.row(),
    }


def counts(stats: Stats) -> str:
    """ "2070 prompt tokens (2056 reused), 12 new, 31.0 tokens/s", or "2.5 s a token" where that is slow."""
    steps, rate = stats.new_tokens - 1, ""
    if steps > 0 and stats.decode_s:
        is_slow = stats.decode_s > steps
        rate = f", {stats.decode_s / steps:.1f} s a token" if is_slow else f", {steps / stats.decode_s:.1f} tokens/s"
    return f"{stats.prompt_tokens} prompt tokens ({stats.reused_tokens} reused), {stats.new_tokens} new{rate}"


def first_token(stats: Stats, stop_reason: StopReason | None) -> str:
    """ "first token 0.46 s", or that none came before the answer was interrupted."""
    came = _has_token(stats, stop_reason)
    return f"first token {stats.first_token_s:.2f} s" if came else f"no token in {stats.first_token_s:.2f} s"


def _has_token(stats: Stats, stop_reason: StopReason | None) -> bool:
    """An answer that is empty because it ended at once has one: that which ended it."""
    return stats.new_tokens > 0 or stop_reason != "interrupted"


def _probabilities(turn: Turn) -> dict[str, Any]:
    choices = turn.sampling.choices
    return {"probabilities": by_choice(choices, turn.probabilities)} if choices else {}


def _clip_report(medium: Frames) -> dict[str, Any]:
    times = None if medium.kind == "image" else [round(time_s, 4) for time_s in medium.times_s]
    return {"path": str(medium.clip.path), "kind": medium.kind, "frame_times_s": times}
