"""The figures of the server at /metrics, as Prometheus reads them. Nothing in them comes from a question or a clip."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vllava_cli.answers import Answer
from vllava_cli.engine.resident.answer_events import Figures
from vllava_cli.engine.resident.resident_engine import ResidentEngine

if TYPE_CHECKING:
    from vllava_cli.server.service import Service

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
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


def routes(service: Service) -> list[BaseRoute]:
    """Returns the route of the figures."""
    service.metrics.watch(service.resident)
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
        self._ends = Counter(
            "vllava_answer_ends", "Answers by the reason why they ended.", ("reason",), registry=self._registry
        )
        self._faults = Counter("vllava_faults", "Requests that failed by a fault of vllava.", registry=self._registry)
        self._first = Histogram(
            "vllava_first_token_seconds",
            "The time from a question to the first token of its answer.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def watch(self, resident: ResidentEngine) -> None:
        """Shows the figures of an engine, as they are when somebody reads them; a second call changes nothing."""
        if not self._is_watching:
            self._registry.register(_EngineCollector(resident))
        self._is_watching = True

    def answered(self, answer: Answer) -> None:
        """Counts an answer."""
        self._ends.labels(answer.stop_reason).inc()
        if answer.stop_reason != "interrupted":
            self._first.observe(answer.stats.first_token_s)

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


class _EngineCollector(Collector):
    def __init__(self, resident: ResidentEngine) -> None:
        self._resident = resident

    def describe(self) -> Iterable[Metric]:
        return _families(Figures())

    def collect(self) -> Iterable[Metric]:
        return _families(self._resident.figures)


def _families(figures: Figures) -> Iterator[Metric]:
    for name, text in _GAUGES.items():
        yield GaugeMetricFamily(f"vllava_{name}", text, value=getattr(figures, name))
    for name, text in _COUNTERS.items():
        yield CounterMetricFamily(f"vllava_{name}", text, value=getattr(figures, name))


async def _metrics(metrics: Metrics, _request: Request) -> Response:
    return Response(await run_in_threadpool(metrics.text), media_type=CONTENT_TYPE_LATEST)
