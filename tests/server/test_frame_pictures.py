"""/v1/frames shows the squares that the model sees, with their times, of a clip that is named or sent."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.clips import picture
from tests.server.serving import Served
from vllava_cli import demo
from vllava_cli.media.pixels import video_pixels
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Framing

CLIP = demo.clips()[0]
BODY = CLIP.read_bytes()
DATA = f"data:;base64,{base64.b64encode(BODY).decode()}"


def shown(served: Served, **asked: Any) -> dict[str, Any]:
    answer = httpx.post(f"{served.url}/v1/frames", json=asked, timeout=60)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def squares(found: dict[str, Any]) -> np.ndarray[Any, Any]:
    data = [base64.b64decode(each.removeprefix("data:image/png;base64,")) for each in found["pictures"]]
    return np.stack([np.asarray(Image.open(io.BytesIO(each))) for each in data])


@pytest.mark.parametrize(
    ("asked", "framing"),
    [({}, Framing()), ({"fit": "pad", "start": "0:01", "end": 2}, Framing(fit="pad", start_s=1, end_s=2))],
)
def test_the_pictures_are_what_the_model_sees(demo_served: Served, asked: dict[str, Any], framing: Framing) -> None:
    recipe = demo_served.service.resident.tokens.checkpoint.video_recipe
    alone, fit = sample(CLIP, framing), framing.fit
    mean, std = np.array(recipe.mean), np.array(recipe.std)
    seen = video_pixels(alone, recipe, fit=fit)[0].permute(0, 2, 3, 1).numpy() * std + mean
    found = shown(demo_served, clip=DATA, **asked)
    assert np.array_equal(squares(found), np.rint(seen * 255))
    assert found["times_s"] == [round(time_s, 4) for time_s in alone.times_s]
    facts = ("object", "kind", "duration_s", "width", "height", "reasons", "remarks")
    assert [found[name] for name in facts] == ["frames", "video", 2.5, 192, 192, [], []]


def test_a_form_brings_its_own_clip(demo_served: Served) -> None:
    url, files = f"{demo_served.url}/v1/frames", {"file": ("a.mp4", BODY)}
    before = demo_served.service.uploads.all()
    found = httpx.post(url, files=files, data={"at": "[0.5, 1]", "fit": "squash"}, timeout=60).json()
    assert found == shown(demo_served, clip=DATA, at=[0.5, 1], fit="squash")
    assert found["times_s"] == [0.5] * 4 + [1.0] * 4
    assert demo_served.service.uploads.all() == before


def test_an_image_is_one_picture(demo_served: Served) -> None:
    written = io.BytesIO()
    Image.fromarray(picture(3, width=64, height=64)).save(written, "PNG")
    found = shown(demo_served, clip=f"data:,{''.join(f'%{byte:02x}' for byte in written.getvalue())}")
    assert (found["kind"], found["times_s"], found["duration_s"]) == ("image", None, None)
    assert np.array_equal(squares(found), picture(3, width=64, height=64)[None])


@pytest.mark.parametrize(
    ("asked", "status", "message"),
    [
        ({}, 400, "clip is missing."),
        ({"clip": 7}, 400, "clip is not a text: it is 7."),
        ({"clip": DATA, "fit": "zoom"}, 400, 'fit is not one of crop, pad, squash: it is "zoom".'),
        (
            {"clip": DATA, "start": 9},
            400,
            "start 9 s is past the end of 'data:,…', which lasts 2.50 s. Start earlier.",
        ),
        (
            {"clip": DATA, "at": [9]},
            400,
            "at 9 s is past the end of 'data:,…', which lasts 2.50 s. Choose an earlier time.",
        ),
        ({"clip": "file-1"}, 400, "There is no upload 'file-1', or none any more. Send it to /v1/files again."),
        ({"clip": "file:///a"}, 403, "'/a' isn't opened: this server opens no files. Start it with --root FOLDER."),
    ],
)
def test_what_can_not_be_shown_is_refused(
    demo_served: Served, asked: dict[str, Any], status: int, message: str
) -> None:
    answer = httpx.post(f"{demo_served.url}/v1/frames", json=asked)
    assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)
