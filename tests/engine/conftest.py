"""What the tests of the batch engine share: engines that stay loaded, and media to ask about."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.clips import picture
from tests.engine.engines import engine_like, engine_of
from tests.reference import Reference, read_reference
from vllava_cli import demo
from vllava_cli.engine.generate import Engine
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Frames, Framing


@pytest.fixture(scope="session")
def demo_engine() -> Engine:
    return engine_of(demo.CHECKPOINT)


@pytest.fixture(scope="module")
def engine(demo_engine: Engine) -> Engine:
    """The demo's, as if nothing had been asked of it yet."""
    demo_engine.prompt_cache = None
    demo_engine.vision.forget()
    demo_engine.vision.calls = 0
    return demo_engine


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The demo's checkpoint as transformers loads it."""
    return read_reference(demo.CHECKPOINT)


@pytest.fixture(scope="session")
def random_engine(small_checkpoint: Path) -> Engine:
    """It never ends an answer by itself."""
    return engine_of(small_checkpoint)


@pytest.fixture(scope="session")
def ending_engine(random_engine: Engine) -> Engine:
    """The same model, but a fifth of its vocabulary ends an answer: some are short, some long."""
    return engine_like(random_engine, stop_ids=frozenset(range(10, len(random_engine.tokens.tokenizer), 5)))


@pytest.fixture(scope="session")
def media(clip: Path, other_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Frames, ...]:
    """The shipped clips and pictures, two clips and a picture that were just made; videos and images mixed."""
    photo = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(picture(9, 80, 60)).save(photo)
    videos, images = [], []
    for path in (*demo.clips(), clip, other_clip, photo):
        (images if path.suffix == ".png" else videos).append(sample(path, Framing()))
    return (videos[0], images[0], *videos[1:4], *images[1:], *videos[4:])
