"""What a terminal shows while a run has nothing to show yet: the demo model in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.batch.parts import Reading, Terminal
from vllava_cli import demo
from vllava_cli.batch.output import Destination
from vllava_cli.batch.request import Batch, Inputs
from vllava_cli.batch.run import run
from vllava_cli.nouns import Framing, Sampling, Wishes


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_terminal_is_told_what_is_waited_for_until_the_first_row(
    is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    batch = Batch(
        inputs=Inputs(paths=(str(demo.clips()[0]),), questions=("What happens in this video?",)),
        wishes=Wishes(model="demo", device="cpu", precision="fp32"),
        framing=Framing(),
        sampling=Sampling(max_new_tokens=4),
        destination=Destination(path=tmp_path / "out.jsonl" if is_kept else None),
        decoders=1,
    )
    assert run(batch, Reading(out=terminal, err=terminal).screen()) == 0
    told = terminal.getvalue()
    waits = ["Reading headers: 0/1", "Reading the model's files", "0/1 · reading the first clips; Ctrl-C stops"]
    places = [told.find(wait) for wait in (*waits, "1 of 1 job answered" if is_kept else '{"id": ')]
    assert -1 not in places and places == sorted(places), told
