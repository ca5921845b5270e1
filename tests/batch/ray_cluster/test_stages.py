"""What decodes and what answers, as the cluster's processes run them, without a cluster."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.batch.parts import RECIPE, setup_of
from tests.clips import picture, write_clip
from vllava_cli.batch.executors.ray_actors import CLIP, RESULT, EngineActor, StageSetup, decoded
from vllava_cli.batch.jobs import ClipJobs, JobRequest, make_jobs
from vllava_cli.batch.rows import Result
from vllava_cli.demo import CLIPS
from vllava_cli.media.decoder.client import DecoderClient
from vllava_cli.media.fingerprint import fingerprint
from vllava_cli.media.pixels import video_pixels
from vllava_cli.nouns import DecodeLimits, Fit, Framing


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageSetup:
    monkeypatch.chdir(tmp_path)  # what answers goes to the folder of the setup, and the tests come back from there
    return setup_of(tmp_path)


def framed(setup: StageSetup, framing: Framing) -> StageSetup:
    return replace(setup, batch=replace(setup.batch, framing=framing))


def clip_of(path: Path | str) -> ClipJobs:
    """A clip with one question."""
    return ClipJobs(
        jobs=tuple(make_jobs([JobRequest(path=str(path), question="What happens in this video?")], "settings"))
    )


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_frames_are_sent_as_small_as_the_model_takes_them(setup: StageSetup, fit: Fit, tmp_path: Path) -> None:
    clip, framing = write_clip(tmp_path / "wide.mp4", width=320, height=176), Framing(fit=fit)
    found = decoded(clip_of(clip), framed(setup, framing)).frames
    assert found
    assert found.pixels.shape == (8, RECIPE.short_side, RECIPE.short_side, 3)
    guard = DecoderClient(DecodeLimits())
    whole = guard.sample(clip, framing)
    guard.kill()
    assert (found.clip, found.times_s) == (whole.clip, whole.times_s)
    assert torch.equal(video_pixels(found, RECIPE, fit=fit), video_pixels(whole, RECIPE, fit=fit))


def test_more_moments_than_the_model_sees_are_a_fault_of_the_clip(setup: StageSetup) -> None:
    nine = framed(setup, Framing(at_s=tuple(number / 10 for number in range(9))))
    found = decoded(clip_of(CLIPS / "blue-star-grows.mp4"), nine)
    assert found.error
    assert (found.error.kind, found.is_early) == ("trim", False)
    assert found.error.message == "9 frames are more than the 8 that the model sees. Name fewer."


def test_a_clip_is_hashed_where_it_is_decoded(setup: StageSetup, tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "short.mp4", 3)
    assert decoded(clip_of(clip), setup).fingerprint is None
    hashing = replace(setup, batch=replace(setup.batch, is_hashing=True))
    found = decoded(clip_of(clip), hashing)
    assert found.fingerprint == fingerprint(clip)
    (result,) = EngineActor(hashing, Heard()).results([found])
    assert result.making
    (told,) = result.making.clips
    assert (told.bytes, told.sha256) == (clip.stat().st_size, fingerprint(clip).sha256)


@dataclass
class Heard:
    """Hears an actor's reports."""

    words: list[str] = field(default_factory=list)

    def begun(self) -> None:
        self.words.append("begun")

    def settled(self) -> None:
        self.words.append("settled")


def test_still_images_short_clips_and_faults_have_their_rows(setup: StageSetup, tmp_path: Path) -> None:
    Image.fromarray(picture(3)).save(tmp_path / "still.png")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    paths = (tmp_path / "still.png", write_clip(tmp_path / "short.mp4", 3), tmp_path / "bad.mp4")
    clips = [pickle.dumps(decoded(clip_of(path), setup)) for path in paths]
    heard = Heard()
    answering = EngineActor(setup, heard)
    answering({CLIP: clips[2:]})
    assert heard.words == ["begun"]  # no engine is needed to say that a clip is bad
    results: dict[str, Result] = {
        Path(result.job.path).name: result for result in map(pickle.loads, answering({CLIP: clips})[RESULT])
    }
    still, short, bad = (results.pop(name) for name in ("still.png", "short.mp4", "bad.mp4"))
    assert (still.answer is not None, still.times_s, results) == (True, None, {})
    assert short.answer and short.times_s and len(short.times_s) == 8
    assert bad.error and bad.error.kind == "unreadable"
    assert heard.words == ["begun", "settled"]
    answering({CLIP: clips[:1]})
    assert heard.words == ["begun", "settled"]
