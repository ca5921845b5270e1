"""The figures at /metrics: what happened is counted, and nobody can make up names of routes."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.engine.engines import engine_of
from tests.server.found import asked_by_ask, asked_by_batch
from tests.server.serving import served
from vllava_cli import demo
from vllava_cli.engine.resident.row_scheduler import RowScheduler
from vllava_cli.errors import OverflowedError, VllavaError


def values(text: str) -> dict[str, float]:
    """{"vllava_requests_total other 404": 2.0, …}"""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join([each.name, *each.labels.values()]): each.value for each in samples}


def test_figures_say_what_happened(tmp_path: Path) -> None:
    with served(engine_of(demo.CHECKPOINT), tmp_path) as running, httpx.Client(base_url=running.url) as client:
        before = values(client.get("/metrics").text)
        assert [before[f"vllava_{name}"] for name in ("faults_total", "answers_total", "clips_decoded_total")] == [
            0
        ] * 3
        ask: Any = {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 2}
        for fields in ({}, {"stream": True}, {"choices": ["yes", "no"]}, {"n": 0}):
            client.post("/v1/chat/completions", json=ask | fields)
        client.get("/v1/models/demo")
        for path in ("/secret-1", "/secret-2"):
            client.get(path)
        assert asked_by_ask(running, tmp_path / "own", "What happens?") and asked_by_batch(running, "What happens?")
        client.post("/v1/frames", json={"clip": "data:,hello"})
        text = client.get("/metrics").text
    found = values(text)
    assert "secret" not in text
    wanted = {
        "vllava_requests_total /v1/chat/completions 200": 3,
        "vllava_requests_total /v1/chat/completions 400": 1,
        "vllava_requests_total /v1/models/{name:path} 200": 1,
        "vllava_requests_total other 404": 2,
        "vllava_answer_ends_total choice": 1,
        "vllava_answer_ends_total length": 2,
        "vllava_answer_ends_total end": 2,
        "vllava_answer_ends_total fault": 0,
        "vllava_first_token_seconds_count": 5,
        "vllava_first_token_seconds_bucket +Inf": 5,
        "vllava_answer_seconds_count": 5,
        "vllava_answers_total": 5,
        "vllava_clips_decoded_total": 1,
        "vllava_clip_faults_total": 1,
        "vllava_clips_waiting": 0,
        "vllava_clips_kept": 1,
        "vllava_waiting": 0,
        "vllava_faults_total": 0,
    }
    assert {name: found.get(name) for name in wanted} == wanted
    assert found["vllava_clips_bytes"] > 0


def test_a_fault_is_counted_once_whichever_route_it_comes_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in the middle of a reply has the status 200 like all that went well."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    with served(engine_of(demo.CHECKPOINT), tmp_path) as running, httpx.Client(base_url=running.url) as client:
        monkeypatch.setattr(running.service.shelf, "frames", broken)
        monkeypatch.setattr(
            RowScheduler, "put", lambda self, one, _: self.ends(one, None, OverflowedError("Too large."))
        )
        ask: Any = {"messages": [{"role": "user", "content": "What?"}]}
        counts = []
        for begin in (
            lambda: client.post("/v1/chat/completions", json=ask),
            lambda: client.post("/v1/chat/completions", json=ask | {"stream": True}),
            lambda: asked_by_ask(running, tmp_path / "own", "What?"),
            lambda: asked_by_batch(running, "What?"),
        ):
            with suppress(VllavaError, RuntimeError):
                begin()
            found = values(client.get("/metrics").text)
            counts.append((found["vllava_faults_total"], found["vllava_answer_ends_total fault"]))
    assert counts == [(1, 1), (2, 2), (3, 2), (4, 3)]
