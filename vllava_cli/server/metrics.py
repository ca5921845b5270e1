"""The figures of the server at /metrics, as Prometheus reads them. Nothing in them comes from a question or a clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllava_cli.engine.resident.answer_events import SECONDS_BOUNDS, Figures, SecondsCount
from vllava_cli.engine.resident.resident_engine import ResidentEngine
from vllava_cli.server.clips.media_shelf import MediaShelf, ShelfFigures

if TYPE_CHECKING:
    from vllava_cli.server.service import Service

_GAUGES = {
    "running": "Answers that are being made.",
    "most_rows": "The most answers that are made at once now.",
    "waiting": "Questions that wait for their turn.",
    "prefix_bytes": "Memory of the beginnings of prompts that are kept.",
}
_COUNTERS = {
    "answers": "Answers that ended.",
    "prompt_tokens": "Tokens of prompts.",
    "reused_tokens": "Tokens of prompts that were read before.",
    "new_tokens": "Tokens that were decoded.",
    "tower_calls": "Clips that went through a vision tower.",
}
_SECONDS = {
    "first_token_seconds": ("first_tokens", "The time from a question to the first token of its answer."),
    "answer_seconds": ("whole_answers", "The time from a question to the end of its answer."),
}
_CLIP_GAUGES = {
    "clips_waiting": ("waiting", "Clips that are being decoded, or wait for it."),
    "clips_kept": ("clips", "Clips whose frames are kept."),
    "clips_bytes": ("bytes", "Memory of the frames that are kept."),
}
_CLIP_COUNTERS = {
    "clips_decoded": ("decoded", "Clips that were decoded."),
    "clip_faults": ("faults", "Clips that couldn't be read."),
}


def routes(service: Service) -> list[BaseRoute]:
    """Returns the route of the figures."""
    service.metrics.watch(service.resident, service.shelf)
    return [Route("/metrics", partial(_metrics, service.metrics))]


class Metrics:
    """Counts what the server does."""

    def __init__(self) -> None:
        self._is_watching = False
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = Counter(
            "vllava_requests", "Requests by route and status.", ("route", "status"), registry=self._registry
        )
        self._faults = Counter("vllava_faults", "Requests that failed by a fault of vllava.", registry=self._registry)

    def watch(self, resident: ResidentEngine, shelf: MediaShelf) -> None:
        """Shows what an engine and a shelf count, as it is when somebody reads it; a second call changes nothing."""
        if not self._is_watching:
            self._registry.register(_ServerCollector(resident, shelf))
        self._is_watching = True

    def requested(self, route: str, status: int) -> None:
        """Counts a request; `route` is a pattern, so that nobody can make up more of them."""
        self._requests.labels(route, str(status)).inc()
        self.failed(status)

    def failed(self, status: int) -> None:
        """Counts a fault of vllava, if a status stands for one; 503 is none, as the server is only full or ending."""
        if status >= 500 and status != 503:
            self._faults.inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class RequestCounter:
    """Counts each request by the pattern of its route, and by the status that it was answered with."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.requested(getattr(scope.get("route"), "path", "other"), status)


class _ServerCollector(Collector):
    """Whatever route asked, the engine counts the answers, and the shelf the clips."""

    def __init__(self, resident: ResidentEngine, shelf: MediaShelf) -> None:
        self._resident, self._shelf = resident, shelf

    def describe(self) -> Iterable[Metric]:
        return _families(Figures(), ShelfFigures(decoded=0, faults=0, waiting=0, clips=0, bytes=0))

    def collect(self) -> Iterable[Metric]:
        return _families(self._resident.figures, self._shelf.figures)


def _families(figures: Figures, clips: ShelfFigures) -> Iterator[Metric]:
    for name, text in _GAUGES.items():
        yield GaugeMetricFamily(f"vllava_{name}", text, value=getattr(figures, name))
    for name, text in _COUNTERS.items():
        yield CounterMetricFamily(f"vllava_{name}", text, value=getattr(figures, name))
    ends = CounterMetricFamily("vllava_answer_ends", "Answers by the reason why they ended.", labels=("reason",))
    for reason, count in figures.ends.items():
        ends.add_metric((reason,), count)
    ends.add_metric(("fault",), figures.faults)
    yield ends
    for name, (field, text) in _SECONDS.items():
        yield _histogram(f"vllava_{name}", text, getattr(figures, field))
    for name, (field, text) in _CLIP_GAUGES.items():
        yield GaugeMetricFamily(f"vllava_{name}", text, value=getattr(clips, field))
    for name, (field, text) in _CLIP_COUNTERS.items():
        yield CounterMetricFamily(f"vllava_{name}", text, value=getattr(clips, field))


def _histogram(name: str, text: str, seconds: SecondsCount) -> Metric:
    buckets = [(str(bound), count) for bound, count in zip(SECONDS_BOUNDS, seconds.within, strict=True)]
    return HistogramMetricFamily(name, text, buckets=[*buckets, ("+Inf", seconds.count)], sum_value=seconds.sum_s)


async def _metrics(metrics: Metrics, _request: Request) -> Response:
    return Response(await run_in_threadpool(metrics.text), media_type=CONTENT_TYPE_LATEST)
