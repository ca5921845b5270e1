"""The figures at /metrics: what happened is counted, and nobody can make up names of routes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.engine.engines import engine_of
from tests.server.serving import served
from vllava_cli import demo


def values(text: str) -> dict[str, float]:
    """{"vllava_requests_total other 404": 2.0, …}"""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {" ".join([each.name, *each.labels.values()]): each.value for each in samples}


def test_figures_say_what_happened(tmp_path: Path) -> None:
    with served(engine_of(demo.CHECKPOINT), tmp_path) as running, httpx.Client(base_url=running.url) as client:
        before = values(client.get("/metrics").text)
        assert before["vllava_faults_total"] == 0
        ask: Any = {"messages": [{"role": "user", "content": "What?"}], "max_tokens": 2}
        for fields in ({}, {"stream": True}, {"choices": ["yes", "no"]}, {"n": 0}):
            client.post("/v1/chat/completions", json=ask | fields)
        client.get("/v1/models/demo")
        for path in ("/secret-1", "/secret-2"):
            client.get(path)
        text = client.get("/metrics").text
    found = values(text)
    assert "secret" not in text
    wanted = {
        "vllava_requests_total /v1/chat/completions 200": 3,
        "vllava_requests_total /v1/chat/completions 400": 1,
        "vllava_requests_total /v1/models/{name:path} 200": 1,
        "vllava_requests_total other 404": 2,
        "vllava_answer_ends_total choice": 1,
        "vllava_first_token_seconds_count": 3,
        "vllava_answers_total": 3,
        "vllava_waiting": 0,
        "vllava_faults_total": 0,
    }
    assert {name: found.get(name) for name in wanted} == wanted
