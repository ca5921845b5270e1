"""The server tells over its socket and its port that it is well, and what it serves."""

from __future__ import annotations

import httpx
import pytest

from tests.server.serving import Served
from vllava_cli import __version__
from vllava_cli.nouns import Wishes
from vllava_cli.server.openai.models import names_of


def test_it_is_well(demo_served: Served) -> None:
    well = {"status": "ok", "model": "demo", "version": __version__}
    assert httpx.get(f"{demo_served.url}/health").json() == well
    with httpx.Client(transport=httpx.HTTPTransport(uds=demo_served.socket)) as client:
        assert client.get("http://localhost/health").json() == well


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
