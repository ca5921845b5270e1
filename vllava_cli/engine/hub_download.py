"""Asks the hub about a repository and fetches its files into the cache, in the layout that the hub's library reads.

When a download breaks off, the part of the file that has arrived stays, and the next download continues after it. The
hub's library removes that part since its version 1.18 (findings/hub-download-begins-anew.sh).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from vllava_cli.errors import HubError
from vllava_cli.nouns import DEFAULT_MODEL, Source, SourceKind

ANSWER_S = 4.0
"""The limit for the hub's first answer, unless HF_HUB_ETAG_TIMEOUT says otherwise."""
Found = TypeVar("Found")
STALL_S = 10.0
"""A download that stalls for this long is requested again."""
PAUSES_S = (0.0, 1.0, 2.0)
"""The pauses before further attempts while nothing arrives."""
AT_ONCE = 4


def cache_folder() -> Path:
    """Returns the folder of the hub's cache, as HF_HUB_CACHE or HF_HOME set it, or the default."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def repository_folder(model: str) -> Path:
    """Returns the folder of the cache that holds a model's files."""
    from huggingface_hub.file_download import repo_folder_name

    return cache_folder() / repo_folder_name(repo_id=model, repo_type="model")


def ask(model: str, revision: str | None, *, lack: str, kind: SourceKind = "model") -> tuple[Source, frozenset[str]]:
    """Asks the hub for a revision. Returns its source, whose folder may not exist yet, and the names of its files.

    The cache remembers the commit of the revision. The message of an error begins with `lack`, which says what isn't
    here. Errors: HubError.
    """
    from huggingface_hub import HfApi, constants, errors
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # the library would print what the hub advertises
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{lack} and HF_HUB_OFFLINE is set: unset it where there is a network.")
    limit_s = constants.HF_HUB_ETAG_TIMEOUT if "HF_HUB_ETAG_TIMEOUT" in os.environ else ANSWER_S
    pool = ThreadPoolExecutor(1)  # in a thread, so that looking up and trying addresses counts, too
    try:
        with refusals(model, revision, kind):
            info = pool.submit(HfApi().model_info, model, revision=revision, timeout=limit_s + 1).result(limit_s)
        names = frozenset(file.rfilename for file in info.siblings or () if is_plain(file.rfilename))
        commit = plain(info.sha)
    except TimeoutError as exc:
        raise HubError(
            f"{lack} and the hub doesn't answer within {limit_s:g} seconds: try again, or set "
            "HF_HUB_ETAG_TIMEOUT to more."
        ) from exc
    except errors.HTTPError as exc:
        other = ", or try --model demo, which is built in" if kind == "model" else ""
        raise HubError(
            f"{lack} and the hub can't be reached ({str(exc) or type(exc).__name__}): run hf download {model} where "
            f"there is a network{other}."
        ) from exc
    except (ValueError, LookupError, TypeError, AttributeError) as exc:  # the answer isn't the hub's
        raise HubError(
            f"{lack} and the server at {constants.ENDPOINT} is not the hub: log in to this network first, or correct "
            "HF_ENDPOINT."
        ) from exc
    finally:
        pool.shutdown(wait=False)
    repository, branch = repository_folder(model), revision or "main"
    if branch != commit:
        with suppress(OSError):  # if the cache can't be written to, a later download says so
            reference = repository / "refs" / branch
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(commit, encoding="utf-8")
    return Source(model=model, folder=repository / "snapshots" / commit, revision=commit, kind=kind), names


@contextmanager
def refusals(model: str, revision: str | None, kind: SourceKind) -> Iterator[None]:
    """Turns a refusal of the hub into an error of one sentence. Errors: HubError."""
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.HFValidationError as exc:
        example = DEFAULT_MODEL if kind == "model" else "owner/my-lora"
        raise HubError(f"{model} is neither a folder nor a hub id such as {example}.") from exc
    except errors.GatedRepoError as exc:
        raise HubError(
            f"The hub's {kind} {model} is gated: ask for access at {constants.ENDPOINT}/{model}, then log in with "
            "hf auth login."
        ) from exc
    except errors.RepositoryNotFoundError as exc:
        raise HubError(
            f"The hub has no {kind} {model}, or it is private: check the name, or log in with hf auth login."
        ) from exc
    except errors.RevisionNotFoundError as exc:
        raise HubError(f"The hub's {kind} {model} has no revision {revision}: leave --revision out for main.") from exc
    except errors.HfHubHTTPError as exc:
        status = exc.response.status_code
        remedy = "log in again with hf auth login, or unset HF_TOKEN" if status in (401, 403) else "try again later"
        raise HubError(f"The hub answers with status {status} about {model}: {remedy}.") from exc


def plain(name: str | None) -> str:
    """Returns a file name that the hub gave. Errors: ValueError if it would lead out of a folder."""
    if not name or not is_plain(name):
        raise ValueError(name)
    return name


def is_plain(name: str) -> bool:
    """Returns True if a name stays directly inside a folder: "config.json" does, "a/b" and ".." don't."""
    return name not in ("", ".", "..") and not set(name) & set('/\\:"\0')


def fetch(source: Source, names: Iterable[str], *, has_bar: bool = False) -> None:
    """Fetches the named files that the source's folder lacks, several at once. Errors: HubError."""
    todo = [name for name in names if not (source.folder / name).exists()]
    is_over = threading.Event()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        files = _all(pool.submit(_look_up, source, name, is_over) for name in todo)
        _check_space(source, files)
        with _bar(files, is_shown=has_bar and bool(files)) as bar:
            try:
                _all(pool.submit(file.fetch, bar) for file in files)
            except KeyboardInterrupt:
                bar.leave = True  # the bar then says how much has arrived
                raise
    finally:
        is_over.set()
        pool.shutdown(wait=False, cancel_futures=True)


def _look_up(source: Source, name: str, is_over: threading.Event) -> RemoteFile:
    """Asks the hub for the size and the ETag of a file. Errors: HubError."""
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(source.model, name, revision=source.revision)
    for is_last in (False, True):  # tries twice: the hub may have closed a connection that was kept open
        try:
            with refusals(source.model, source.revision, source.kind):
                found = get_hf_file_metadata(url, timeout=STALL_S)
            blob = repository_folder(source.model) / "blobs" / plain(found.etag)
            break
        except (errors.HTTPError, ValueError) as exc:
            if is_last:
                raise _broken_off(name) from exc
    return RemoteFile(source=source, name=name, url=url, size=found.size, blob=blob, is_over=is_over)


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of the hub that a thread fetches into the cache."""

    source: Source
    name: str
    url: str
    size: int | None
    blob: Path
    """The file of the cache with its content, named by its ETag."""
    is_over: threading.Event
    """Set when the caller no longer waits for the file."""

    @property
    def part(self) -> Path:
        """The file that holds the bytes that have arrived so far."""
        return self.blob.with_name(f"{self.blob.name}.incomplete")

    @property
    def bytes_here(self) -> int:
        return next((path.stat().st_size for path in (self.blob, self.part) if path.exists()), 0)

    def fetch(self, bar: Any) -> None:
        """Fetches the file into the cache, and links it into the source's folder. Errors: HubError."""
        from huggingface_hub.utils import WeakFileLock

        repository = self.blob.parent.parent
        lock = repository.parent / ".locks" / repository.name / f"{self.blob.name}.lock"
        try:
            for folder in (lock.parent, self.blob.parent, self.source.folder):
                folder.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                if not self.blob.exists():
                    self._complete(bar)
                    self.part.replace(self.blob)
                _link(self.blob, self.source.folder / self.name)
        except OSError as exc:
            raise HubError(
                f"The file {self.name} can't be kept in {repository}: {exc.strerror or exc}. Make room there, or set "
                "HF_HOME to another folder."
            ) from exc

    def _complete(self, bar: Any) -> None:
        """Completes `part`. A damaged file that an earlier download began is fetched anew. Errors: HubError."""
        is_taken_up = self.part.exists()
        with self.part.open("ab") as sink:
            self._grow(sink, bar)
        if self._is_sound():
            return
        _count(bar, -self.bytes_here)
        self.part.unlink()
        if not is_taken_up:
            raise HubError(f"The hub's file {self.name} arrived damaged: try again, or use another network.")
        self._complete(bar)

    def _grow(self, sink: IO[bytes], bar: Any) -> None:
        from huggingface_hub import errors

        pauses_s = iter(PAUSES_S)
        while self.size is None or sink.tell() < self.size:
            before, fault = sink.tell(), None
            try:
                self._receive(sink, bar)
            except errors.HTTPError as exc:
                fault = exc
            if self.size is None and fault is None:
                return
            if sink.tell() > before:
                pauses_s = iter(PAUSES_S)
            elif (pause_s := next(pauses_s, None)) is None:
                raise _broken_off(self.name) from fault
            else:
                self.is_over.wait(pause_s)

    def _receive(self, sink: IO[bytes], bar: Any) -> None:
        """Asks the hub for the bytes that `sink` lacks, and appends them."""
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        start = sink.tell()
        headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        request = get_session().stream("GET", self.url, headers=headers, timeout=STALL_S, follow_redirects=True)
        with refusals(self.source.model, None, self.source.kind), request as response:
            hf_raise_for_status(response)
            if start and response.status_code != 206:  # the hub sends the whole file all the same
                sink.seek(0)
                sink.truncate()
                _count(bar, -start)
            for chunk in response.iter_bytes():
                if self.is_over.is_set():
                    raise _broken_off(self.name)
                sink.write(chunk)
                sink.flush()  # so that the chunk stays even if the process is killed
                _count(bar, len(chunk))

    def _is_sound(self) -> bool:
        """Returns True if `part` has the size that the hub names and, if the ETag is a SHA-256, that SHA-256."""
        if self.size is not None and self.bytes_here != self.size:
            return False
        with self.part.open("rb") as part:
            return len(self.blob.name) != 64 or hashlib.file_digest(part, "sha256").hexdigest() == self.blob.name


def _count(bar: Any, size: int) -> None:
    with bar.get_lock():
        bar.update(size)


def _all(futures: Iterable[Future[Found]]) -> list[Found]:
    """Waits for all futures and returns their results; raises the first error at once."""
    begun = list(futures)
    for future in wait(begun, return_when=FIRST_EXCEPTION).done:
        future.result()
    return [future.result() for future in begun]


def _check_space(source: Source, files: list[RemoteFile]) -> None:
    """Raises HubError if the disk has too little space for the bytes that are missing."""
    left = sum((file.size or 0) - file.bytes_here for file in files)
    existing = next(folder for folder in (cache_folder(), *cache_folder().parents) if folder.exists())
    free = shutil.disk_usage(existing).free
    if left > free:
        raise HubError(
            f"The {source.kind} {source.model} takes {left / 1e9:.1f} GB more, and {cache_folder()} has "
            f"{free / 1e9:.1f} GB free: make room there, or set HF_HOME to a folder of a larger disk."
        )


def _bar(files: list[RemoteFile], *, is_shown: bool) -> Any:
    """Makes a progress bar on stderr that disappears at the end. It leaves space for the ^C of a terminal."""
    from huggingface_hub.utils import tqdm

    return tqdm(  # type: ignore[no-untyped-call]
        desc="Fetching",
        total=sum(file.size or 0 for file in files),
        initial=sum(file.bytes_here for file in files),
        unit="B",
        unit_scale=True,
        disable=not is_shown,
        leave=False,
        ncols=(os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 3 if is_shown else None,
    )


def _link(blob: Path, name: Path) -> None:
    name.unlink(missing_ok=True)  # there may be a link to a blob that was removed
    try:
        name.symlink_to(os.path.relpath(blob, name.parent))
    except OSError:  # on Windows not every user may make links
        shutil.copyfile(blob, name)


def _broken_off(name: str) -> HubError:
    return HubError(f"The download of {name} broke off: run the same command again to continue it.")
