"""The route /v1/frames: the squares of a clip that the model sees, as pictures with their times."""

from __future__ import annotations

import asyncio
import base64
import json
from functools import partial
from typing import Any, get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from vllava_cli.errors import UsageError, quoted
from vllava_cli.nouns import Fit, Frames, Framing
from vllava_cli.server.clips.clip_requests import ClipWanted, read_clips
from vllava_cli.server.clips.media_shelf import NAMELESS
from vllava_cli.server.openai.body_fields import BodyFields, read_body, read_framing
from vllava_cli.server.openai.protocol_errors import AsciiJSONResponse
from vllava_cli.server.openai.upload_form import is_form, read_form
from vllava_cli.server.service import Service


def routes(service: Service) -> list[BaseRoute]:
    """Returns the route of frames."""
    return [Route("/v1/frames", partial(_frames, service), methods=["POST"])]


async def _frames(service: Service, request: Request) -> Response:
    """Answers {"clip": a URL or an upload's id, "start", "end", "at", "pick", "fit"}, or a form with a file."""
    if not is_form(request):
        return AsciiJSONResponse(await _described(service, await asyncio.to_thread(read_body, await request.body())))
    form = await read_form(request, service.uploads)
    try:
        given = {name: _value(text) for name, text in form.fields.items()}
        fields = BodyFields(given | {"clip": form.upload.id}, "", error=UsageError)
        return AsciiJSONResponse(await _described(service, fields))
    finally:
        service.uploads.delete(form.upload.id)


async def _described(service: Service, given: BodyFields) -> dict[str, Any]:
    fit: Fit = given.optional("fit", lambda key: given.one_of(key, get_args(Fit)), default="crop")
    wanted = ClipWanted(url=given.filled("clip"), framing=read_framing(given, fit))
    (frames,) = await read_clips(service, (wanted,))
    return await asyncio.to_thread(_object, service, frames, wanted.framing)


def _object(service: Service, frames: Frames, framing: Framing) -> dict[str, Any]:
    from vllava_cli.media.contact_sheet import frame_png, seen

    recipe = service.resident.tokens.checkpoint.video_recipe
    pictures = [base64.b64encode(frame_png(square)).decode() for square in seen(frames, recipe, fit=framing.fit)]
    return {
        "object": "frames",
        "kind": frames.kind,
        "duration_s": frames.clip.duration_s,
        "width": frames.clip.width,
        "height": frames.clip.height,
        "times_s": None if frames.kind == "image" else [round(time_s, 4) for time_s in frames.times_s],
        "reasons": list(frames.reasons),
        "pictures": [f"data:image/png;base64,{picture}" for picture in pictures],
        "remarks": [remark.replace(quoted(NAMELESS), "The clip") for remark in frames.clip.remarks],
    }


def _value(text: str) -> Any:
    """Reads the value of a form's field: "2.5" → 2.5, "[1, 2]" → [1, 2], "pad" → "pad"."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
