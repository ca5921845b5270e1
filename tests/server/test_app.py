"""The server tells over its socket and its port that it is well, and what it serves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.engine.engines import engine_of
from tests.server.found import asked_by_ask, asked_by_batch
from tests.server.serving import Served, served
from tests.waiting import wait_for
from vllava_cli import __version__, demo
from vllava_cli.nouns import Wishes
from vllava_cli.server.openai.models import names_of
from vllava_cli.server.serve_settings import ServeSettings


def test_it_is_well(demo_served: Served) -> None:
    well = {"status": "ok", "model": "demo", "version": __version__}
    assert httpx.get(f"{demo_served.url}/health").json() == well
    with httpx.Client(transport=httpx.HTTPTransport(uds=demo_served.socket)) as client:
        assert client.get("http://localhost/health").json() == well


def test_only_its_user_is_told_in_which_folder_a_model_is(tmp_path: Path) -> None:
    """The name of the folder need not be a text."""
    wishes = Wishes(model="/data/caf\udce9")
    with served(engine_of(demo.CHECKPOINT), tmp_path, ServeSettings(wishes=wishes)) as running:
        with httpx.Client(transport=httpx.HTTPTransport(uds=running.socket)) as client:
            assert client.get("http://localhost/vllava/status").json()["model"] == "/data/caf\\xe9"
        for path, name in (("/health", "model"), ("/vllava/engine", "name")):
            told = httpx.get(running.url + path)
            assert told.json()[name] == "caf\\xe9" and "/data" not in told.text
        assert httpx.get(f"{running.url}/vllava/status").status_code == 403


@pytest.mark.parametrize(
    ("model", "adapter", "names"),
    [
        ("demo", None, ("demo",)),
        ("LanguageBind/Video-LLaVA-7B-hf", None, ("LanguageBind/Video-LLaVA-7B-hf", "Video-LLaVA-7B-hf")),
        ("/data/mine", None, ("mine", "/data/mine")),
        ("/data/mine", "me/birds", ("mine+birds",)),
    ],
)
def test_a_model_is_called_by_names_that_show_no_folder_first(
    model: str, adapter: str | None, names: tuple[str, ...]
) -> None:
    assert names_of(Wishes(model=model, adapter=adapter)) == names


@pytest.mark.parametrize("is_logging", [True, False])
def test_a_question_is_in_the_log_whichever_route_it_came_by_and_only_with_log(
    is_logging: bool, demo_served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, said = demo_served.service, list[str]()
    monkeypatch.setattr(service, "settings", replace(service.settings, is_logging=is_logging))
    monkeypatch.setattr(service, "say", said.append)
    body = {"messages": [{"role": "user", "content": "What happens?"}]}
    httpx.post(f"{demo_served.url}/v1/chat/completions", json=body)
    assert asked_by_ask(demo_served, tmp_path, "What\nhappens?") and asked_by_batch(demo_served, "What\nhappens?")
    assert wait_for(lambda: len(said) >= 4 or not is_logging)
    lines = [re.sub(r"\S+ (POST|GET) (\S+) 200 \d+\.\d{3} s", r"\2", line) for line in said]
    told = [
        "/v1/chat/completions: What happens?",
        "/vllava/ask: What happens?",
        "/vllava/engine",
        "/vllava/answers: What happens?",
    ]
    assert lines == (told if is_logging else [])
