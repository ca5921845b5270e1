"""What decodes and what answers, as the cluster's processes run them, without a cluster."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.clips import picture, write_clip
from tests.cluster.rows import RECIPE, setup_of
from vllava_cli.cluster.answering import ROW, Answering, row_in
from vllava_cli.cluster.decoding import CLIP, decoded
from vllava_cli.cluster.setup import Setup
from vllava_cli.commands.batch.units import Unit, units_of
from vllava_cli.demo import CLIPS
from vllava_cli.fingerprint import fingerprint
from vllava_cli.jobs import Wanted, made
from vllava_cli.media.guard import Guard
from vllava_cli.media.pick import spread
from vllava_cli.media.pixels import video_pixels
from vllava_cli.nouns import DecodeLimits, Fit, Framing


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.chdir(tmp_path)  # what answers goes to the folder of the setup, and the tests come back from there
    return setup_of(tmp_path)


def framed(setup: Setup, framing: Framing) -> Setup:
    return replace(setup, batch=replace(setup.batch, framing=framing))


def unit(path: Path) -> Unit:
    return units_of(made([Wanted(path=str(path), question="What happens in this video?")], "settings"))[0]


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_frames_are_sent_as_small_as_the_model_takes_them(setup: Setup, fit: Fit, tmp_path: Path) -> None:
    clip, framing = write_clip(tmp_path / "wide.mp4", width=320, height=176), Framing(fit=fit)
    found = decoded(unit(clip), framed(setup, framing)).frames
    assert found
    assert found.pixels.shape == (8, RECIPE.short_side, RECIPE.short_side, 3)
    guard = Guard(DecodeLimits())
    whole = guard.sample(clip, framing)
    guard.kill()
    assert (found.clip, found.times_s) == (whole.clip, whole.times_s)
    assert torch.equal(video_pixels(found, RECIPE, fit=fit), video_pixels(whole, RECIPE, fit=fit))


def test_a_clip_of_three_frames_has_them_shown_as_eight(setup: Setup, tmp_path: Path) -> None:
    found = decoded(unit(write_clip(tmp_path / "short.mp4", 3)), setup).frames
    assert found
    assert len(found.pixels) == len(found.times_s) == 8
    assert len(set(found.times_s)) == 3
    assert spread(found, "crop") is found


def test_more_moments_than_the_model_sees_are_a_fault_of_the_clip(setup: Setup) -> None:
    nine = framed(setup, Framing(at_s=tuple(number / 10 for number in range(9))))
    found = decoded(unit(CLIPS / "blue-star-grows.mp4"), nine)
    assert found.fault
    assert (found.fault.kind, found.is_early) == ("trim", False)
    assert found.fault.message == "9 frames are more than the 8 that the model sees. Name fewer."


def test_a_clip_is_hashed_where_it_is_decoded(setup: Setup, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "short.mp4", 3)
    assert decoded(unit(clip), setup).fingerprint is None
    hashing = replace(setup, batch=replace(setup.batch, is_hashing=True))
    found = decoded(unit(clip), hashing)
    assert found.fingerprint == fingerprint(clip)
    (row,) = Answering(hashing, Heard()).rows([found])
    (told,) = row["made_with"]["clips"]
    assert (told["bytes"], told["sha256"]) == (clip.stat().st_size, fingerprint(clip).sha256)


def test_a_fetched_clip_has_the_hash_that_it_was_fetched_with(
    store: Any, setup: Setup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLAVA_CACHE", str(tmp_path / "cache"))
    clip = write_clip(tmp_path / "short.mp4", 3)
    store.create_bucket(Bucket="hashed")
    store.upload_file(str(clip), "hashed", "short.mp4")
    url = units_of(made([Wanted(path="s3://hashed/short.mp4", question="Why?")], "settings"))[0]
    found = decoded(url, replace(setup, allowed=("s3",)))
    assert (found.fault, found.fingerprint) == (None, fingerprint(clip))


@dataclass
class Heard:
    """Hears an actor's reports."""

    words: list[str] = field(default_factory=list)

    def begun(self) -> None:
        self.words.append("begun")

    def settled(self) -> None:
        self.words.append("settled")


def test_still_images_short_clips_and_faults_have_their_rows(setup: Setup, tmp_path: Path) -> None:
    Image.fromarray(picture(3)).save(tmp_path / "still.png")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    paths = (tmp_path / "still.png", write_clip(tmp_path / "short.mp4", 3), tmp_path / "bad.mp4")
    clips = [pickle.dumps(decoded(unit(path), setup)) for path in paths]
    heard = Heard()
    answering = Answering(setup, heard)
    answering({CLIP: clips[2:]})
    assert heard.words == ["begun"]  # no engine is needed to say that a clip is bad
    rows: dict[str, dict[str, Any]] = {
        Path(row["path"]).name: row for row in map(row_in, answering({CLIP: clips})[ROW])
    }
    assert rows.keys() == {"still.png", "short.mp4", "bad.mp4"}
    assert rows["still.png"]["answer"] and rows["still.png"]["frame_times_s"] is None
    assert rows["short.mp4"]["answer"] and len(rows["short.mp4"]["frame_times_s"]) == 8
    assert rows["bad.mp4"]["error"]["kind"] == "unreadable"
    assert heard.words == ["begun", "settled"]
    answering({CLIP: clips[:1]})
    assert heard.words == ["begun", "settled"]
