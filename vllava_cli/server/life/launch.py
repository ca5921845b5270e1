"""`vllava serve`: loads the model, listens, and ends in good order."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from importlib import util
from typing import TYPE_CHECKING

from vllava_cli import __version__
from vllava_cli.client import place
from vllava_cli.client.place import ModelFile, ServerState
from vllava_cli.commands.start import start, warn_of_demo
from vllava_cli.errors import INTERRUPTED, ServerError, UsageError
from vllava_cli.interrupt import GracefulExit, sigint_flag
from vllava_cli.nouns import MediaKind, counted
from vllava_cli.screen import Screen, one_line
from vllava_cli.times import BEGAN_S, Stopwatch

if TYPE_CHECKING:
    from vllava_cli.engine.generate import Engine
    from vllava_cli.nouns import Source
    from vllava_cli.server.life.listeners import Listeners
    from vllava_cli.server.life.own_place import OwnPlace
    from vllava_cli.server.serve_settings import ServeSettings
    from vllava_cli.server.service import Service

GRACE_S = 60.0
"""How long running answers may take once the server is asked to end."""
HURRY_S = 5.0
"""How long they may take after that, or after a second signal."""
TICK_S = 0.1
WEB = "web"
LIBRARIES = ("starlette", "uvicorn", "prometheus_client", "python_multipart")


def check_libraries() -> None:
    """Raises a UsageError if a library of the extra `serve` isn't installed."""
    if missing := [name for name in LIBRARIES if util.find_spec(name) is None]:
        raise UsageError(f"vllava serve needs {missing[0]}, which isn't installed: pip install 'vllava[serve]'.")


def run(settings: ServeSettings, screen: Screen) -> int:
    """Serves until it is asked to end; returns 0, or 130 after Ctrl-C. Errors: any VllavaError; SystemExit."""
    check_libraries()
    from vllava_cli.server.life.listeners import check_reach

    check_reach(settings)
    is_stuck = threading.Event()
    code = 1
    try:
        code = _run(settings, screen, is_stuck)
    except KeyboardInterrupt:
        code = INTERRUPTED
        raise
    except SystemExit as exc:
        code = exc.code if isinstance(exc.code, int) else 1
        raise
    finally:
        if is_stuck.is_set():  # Python would wait for the threads that still compute
            sys.stderr.flush()
            os._exit(code)
    return code


def _run(settings: ServeSettings, screen: Screen, is_stuck: threading.Event) -> int:
    from vllava_cli.server.life.listeners import bound
    from vllava_cli.server.life.own_place import taken

    is_serving = threading.Event()
    with (
        GracefulExit.watched() as ending,
        sigint_flag(is_early=lambda: not is_serving.is_set()) as is_interrupted,
        taken(place.id_of(settings.wishes, __version__)) as own,
        closing(bound(settings, own)) as listeners,
    ):
        service = _loaded(settings, listeners, screen)
        is_serving.set()
        try:
            with ending.held():
                _serve(service, listeners, own, screen, lambda: ending.is_asked() or is_interrupted())
        finally:
            if not _is_closed(service):
                is_stuck.set()
        return INTERRUPTED if is_interrupted() else 0


def _loaded(settings: ServeSettings, listeners: Listeners, screen: Screen) -> Service:
    """Loads the model as a batch does, and joins it with all that the routes need. Errors: any VllavaError."""
    from vllava_cli.batch.executors import local
    from vllava_cli.engine.adapter import locate

    watch = Stopwatch(began_s=BEGAN_S)
    source = locate(settings.wishes, screen.log)
    files = files_of(source)
    warn_of_demo(settings.wishes.model, screen)
    with screen.waiting("Reading the model's files"):
        local.import_engine()
        tokens = local.read_tokens(source)
    kinds: tuple[MediaKind, ...] = ("video", "image")
    engine, _ = start(
        settings.wishes,
        tokens,
        kinds,
        screen.log,
        watch,
        check=lambda _: None,
        has_clip_cache=settings.has_clip_cache,
    )
    screen.detail(f"ready after {watch.account()}.")
    return _service(settings, engine, files, listeners, screen)


def _service(
    settings: ServeSettings, engine: Engine, files: tuple[ModelFile, ...], listeners: Listeners, screen: Screen
) -> Service:
    from vllava_cli.engine.resident.resident_engine import ResidentEngine
    from vllava_cli.server.clips.media_shelf import MediaShelf
    from vllava_cli.server.service import Service

    plan = engine.plan
    state = ServerState(
        pid=os.getpid(),
        version=__version__,
        wishes=place.as_served(settings.wishes),
        device=plan.device,
        precision=plan.precision,
        attention=plan.attention,
        revision=engine.tokens.checkpoint.revision,
        socket=listeners.path,
        url=listeners.url,
        token=listeners.token,
        began=datetime.now(UTC).isoformat(timespec="seconds"),
        files=files,
    )
    return Service(
        settings=settings,
        resident=ResidentEngine(engine=engine, most_rows=settings.most_rows, most_waiting=settings.most_waiting),
        shelf=MediaShelf(limits=settings.limits, decoders=settings.decoders, most_waiting=settings.most_waiting),
        state=state,
        say=lambda text: screen.notice(one_line(text), is_asked=True),
    )


def files_of(source: Source) -> tuple[ModelFile, ...]:
    """Returns the facts of all files by which a model and its adapter could change, those that are missing too."""
    from vllava_cli.engine import hub

    names = [*(name for row in hub.NEEDED for name in row), *hub.USUAL, *hub.OTHERS, hub.WEIGHTS, hub.INDEX]
    paths = {source.folder / name for name in (*names, *hub.weight_files(source.folder))}
    if source.revision:  # the branch may move to another commit
        paths |= {each for each in (source.folder.parents[1] / "refs").rglob("*") if each.is_file()}
    if source.adapter:
        paths |= {source.adapter.folder / name for name in hub.ADAPTER_FILES}
    return tuple(ModelFile.of(path.absolute()) for path in sorted(paths))


def _serve(service: Service, listeners: Listeners, own: OwnPlace, screen: Screen, is_asked: Callable[[], bool]) -> None:
    """Listens until the server is to end, then lets the running answers finish.

    A second signal raises SystemExit or KeyboardInterrupt, and the answers are cut off.
    """
    from vllava_cli.server.life.connections import web_server

    web = web_server(service, grace_s=HURRY_S)
    thread = threading.Thread(target=web.run, args=(list(listeners.sockets),), name=WEB, daemon=True)
    listeners.open()
    thread.start()
    try:
        while not web.started and thread.is_alive():
            time.sleep(0.01)
        if not web.started:
            raise ServerError("The web server couldn't start, which is a bug. Please report it.")
        own.tell(service.state)
        _say_where(service, screen)
        _wait(service, screen, lambda: is_asked() or not thread.is_alive())
        service.life.end()
        own.withdraw()
        if service.life.running:
            screen.notice(f"vllava: ending, with {counted(service.life.running, 'request')} to answer first.")
        _drain(service)
        if not (web.should_exit or thread.is_alive()):
            raise ServerError("The server ended by itself, which is a bug. Start it again.")
    finally:
        web.should_exit = True
        thread.join(2 * HURRY_S + 1)  # uvicorn waits for HURRY_S at most, then cancels


def _wait(service: Service, screen: Screen, is_asked: Callable[[], bool]) -> None:
    life = service.life
    while not life.wake.wait(TICK_S) and not is_asked():
        idle_s = service.settings.idle_s  # an ask may have made it longer
        if idle_s is not None and life.is_idle(idle_s):
            screen.notice(f"vllava: ending, because nobody has asked for {idle_s:g} s.")
            return


def _drain(service: Service) -> None:
    until_s = time.monotonic() + GRACE_S
    while service.life.running and time.monotonic() < until_s:
        time.sleep(TICK_S)


def _is_closed(service: Service) -> bool:
    """Ends all that works for requests, removes uploads; returns False if a thread still works after HURRY_S."""

    def close() -> None:
        service.resident.close()
        service.fetches.shutdown()

    service.close()
    end = threading.Thread(target=close, name="closing", daemon=True)
    end.start()
    end.join(HURRY_S)
    return not end.is_alive() and not any(thread.name == WEB for thread in threading.enumerate())


def _say_where(service: Service, screen: Screen) -> None:
    """Says on stderr which model is served where, and who may ask."""
    from vllava_cli.server.life.listeners import is_loopback

    state, settings = service.state, service.settings
    where = " and ".join(filter(None, (state.socket, state.url)))
    screen.notice(f"vllava: serving {settings.wishes.model} ({state.precision} on {state.device}) at {where}")
    if settings.port is not None and not settings.token:
        screen.notice("vllava: without a token, every user of this machine may ask at that port.")
    if settings.port is not None and not is_loopback(settings.host):
        screen.notice("vllava: what is asked there isn't encrypted: put a proxy with TLS in front of it.")
