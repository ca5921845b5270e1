"""What the commands do with a user's model folder, and with an adapter for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.adapters import write_adapter
from tests.commands.shell import Shell
from tests.folders import LACKING
from vllava_cli import demo
from vllava_cli.answers import Sampling
from vllava_cli.commands.chat.chat_loop import Chat, of_session
from vllava_cli.nouns import Framing, Wishes
from vllava_cli.storage.session_file import read

Run = Callable[..., Shell]
ASKED = ("What is in this clip?",)


@pytest.fixture
def folder(published: Path, tmp_path: Path) -> Path:
    """The published files, to be changed."""
    return shutil.copytree(published, tmp_path / "model")


@pytest.fixture(scope="module")
def adapter(published: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    return write_adapter(tmp_path_factory.mktemp("adapters") / "adapter", published)


@pytest.mark.parametrize("name", ["pickled weights", "an adapter"])
def test_the_doctor_says_what_ask_says_and_promises_nothing(name: str, folder: Path, clip: Path, quick: Run) -> None:
    LACKING[name][0](folder)
    asked, doctored = quick("ask", "--model", folder, clip, *ASKED), quick("doctor", "--json", "--model", folder)
    report = json.loads(doctored.out)
    assert (asked.code, doctored.code) == (1, 1)
    assert asked.err == f"vllava: {report['fault']}\n"
    assert (report["is_here"], report["model_bytes"], report["place"], report["plan"]) == (False, 0, "", None)


@pytest.mark.parametrize(
    "words", [("ask", "a.mp4", "What?"), ("chat",), ("batch", "What?", "a.mp4"), ("bench",), ("doctor",)]
)
@pytest.mark.parametrize("model", ["demo", "./model"])
def test_what_is_no_hubs_has_no_revision(model: str, words: tuple[str, ...], quick: Run) -> None:
    assert quick(*words, "--model", model, "--revision", "v2") == Shell.failed(
        f"--model {model} is not the hub's, so it has no --revision. Leave one of them out.", code=2
    )


def test_ask_answers_with_the_adapter(published: Path, adapter: Path, clip: Path, quick: Run) -> None:
    words = ("ask", "--model", published, "--max-new-tokens", "8", clip, *ASKED)
    plain, changed = quick(*words), quick(*words, "--adapter", adapter)
    assert (plain.code, changed.code, changed.err) == (0, 0, "")
    assert changed.out not in ("", plain.out)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_batch_is_answered_with_the_adapter_under_ids_of_its_own(
    published: Path, adapter: Path, clip: Path, tmp_path: Path, quick: Run
) -> None:
    """Also by a process for a device."""
    words = ("batch", *ASKED, clip, "--model", published, "--max-new-tokens", "8", "-o")
    assert quick(*words, tmp_path / "plain.jsonl").code == 0
    assert quick(*words, tmp_path / "changed.jsonl", "--adapter", adapter, "--gpus", "cpu").code == 0
    (plain,), (changed,) = (rows(tmp_path / f"{name}.jsonl") for name in ("plain", "changed"))
    assert changed["id"] != plain["id"]
    assert changed["answer"] not in ("", None, plain["answer"])


def test_a_chat_goes_on_with_its_adapter(published: Path, adapter: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.jsonl"
    words = ("chat", "--session", file, "--model", published, "--adapter", adapter, "--max-new-tokens", "8")
    done = Shell.run(*words, demo.clips()[0], folder=tmp_path, stdin=b"What?\n")
    header, record = rows(file)[0], read(file)
    assert (done.code, header["model"], header["adapter"]) == (0, str(published), str(adapter))
    asked = Chat(clips=(), wishes=Wishes(), is_model_named=False, framing=Framing(), sampling=Sampling())
    named = replace(asked, wishes=Wishes(adapter="another"))
    elsewhere = replace(asked, wishes=Wishes(model="another"), is_model_named=True)
    assert of_session(asked, record).wishes == Wishes(model=str(published), adapter=str(adapter))
    assert of_session(named, record).wishes == Wishes(model=str(published), adapter="another")
    assert of_session(elsewhere, record).wishes == Wishes(model="another")


def test_the_doctor_describes_the_adapter(published: Path, adapter: Path, quick: Run) -> None:
    done = quick("doctor", "--model", published, "--adapter", adapter)
    assert (done.code, done.err) == (0, "")
    assert f"  adapter  {adapter}, in {adapter}\n" in done.out
    report = json.loads(quick("doctor", "--json", "--adapter", adapter).out)
    assert report["adapter"]["name"] == str(adapter)
    assert report["model"] == "LanguageBind/Video-LLaVA-7B-hf"


def test_the_doctor_fetches_no_adapter(published: Path, quick: Run) -> None:
    done = quick("doctor", "--json", "--model", published, "--adapter", "owner/adapter")
    assert done.code == 1
    fault = json.loads(done.out)["fault"]
    assert fault.startswith("The adapter owner/adapter is not in the cache ")
    assert fault.endswith(": run hf download owner/adapter, then vllava doctor again.")


def test_bench_measures_the_merged_model(published: Path, adapter: Path, clip: Path, quick: Run) -> None:
    words = ("--precision", "fp32", "--repeat", "1", "--batch", "1", "--max-new-tokens", "2", "--json")
    done = quick("bench", "--model", published, "--adapter", adapter, clip, *words)
    assert (done.code, json.loads(done.out)["model"]) == (0, f"{published} + {adapter}")
