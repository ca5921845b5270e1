"""Writes answers in the form of OpenAI's chat completions, whole or in chunks. Pure."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllava_cli.answers import Answer, Sampling, StopReason
from vllava_cli.choices import by_choice
from vllava_cli.client.place import ServerState
from vllava_cli.engine.resident.answer_events import TokenLogprob
from vllava_cli.nouns import Frames

FINISH_REASONS: dict[StopReason, str] = {
    "end": "stop",
    "choice": "stop",
    "repetition": "stop",
    "length": "length",
    "context": "length",
}
LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON lacks."""


def new_id() -> str:
    return f"chatcmpl-{secrets.token_hex(12)}"


@dataclass(frozen=True, kw_only=True)
class CompletionForm:
    """The facts of a completion that all its chunks share."""

    model: str
    fingerprint: str
    media: tuple[Frames, ...]
    sampling: Sampling
    ignored: tuple[str, ...] = ()
    id: str = field(default_factory=new_id)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: Sequence[Answer], tokens: Sequence[Sequence[TokenLogprob] | None]) -> dict[str, Any]:
        """Writes a completion of finished answers; the tokens of an answer are None unless they were asked for."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "logprobs": logprobs(those),
                "finish_reason": FINISH_REASONS[answer.stop_reason],
            }
            for index, (answer, those) in enumerate(zip(answers, tokens, strict=True))
        ]
        body = self._body("chat.completion", choices)
        return body | {"usage": usage(answers), "vllava": self.extension(answers)}

    def chunk(
        self,
        index: int,
        delta: dict[str, Any],
        *,
        tokens: Sequence[TokenLogprob] | None = None,
        stop_reason: StopReason | None = None,
    ) -> dict[str, Any]:
        """Writes a part of one answer."""
        finish = FINISH_REASONS[stop_reason] if stop_reason else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs(tokens), "finish_reason": finish}
        return self._body("chat.completion.chunk", [choice])

    def usage_chunk(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Writes the chunk behind all answers that has the numbers of tokens."""
        return self._body("chat.completion.chunk", []) | {"usage": usage(answers)}

    def extension(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Writes what the protocol has no field for; `stop_reasons` are those of the answers, in their order."""
        first = answers[0]
        chosen = by_choice(self.sampling.choices, first.probabilities)
        return {
            "frame_times_s": [list(each.times_s) for each in self.media],
            "stop_reasons": [answer.stop_reason for answer in answers],
            "probabilities": chosen or None,
            "reused_tokens": first.stats.reused_tokens,
            "seconds": {"first_token": round(first.stats.first_token_s, 4), "decode": round(first.stats.decode_s, 4)},
            "ignored": list(self.ignored),
        }

    def _body(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
            "choices": choices,
        }


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """Counts the tokens of answers to one prompt, which counts once."""
    prompt = answers[0].stats.prompt_tokens
    new = sum(answer.stats.new_tokens for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": answers[0].stats.reused_tokens},
    }


def logprobs(tokens: Sequence[TokenLogprob] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    content = [
        _token(each.text, each.logprob) | {"top_logprobs": [_token(text, value) for _, text, value in each.top]}
        for each in tokens
    ]
    return {"content": content, "refusal": None}


def fingerprint(state: ServerState) -> str:
    """Names what answers are made with: the same name means the same version, model, device and precision."""
    facts = (state.version, state.wishes, state.device, state.precision, state.attention)
    return f"fp_{hashlib.sha256(repr(facts).encode()).hexdigest()[:10]}"


def _token(text: str, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, LEAST_LOGPROB), "bytes": list(text.encode("utf-8", "replace"))}
