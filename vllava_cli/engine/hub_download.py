"""Fetches files of a repository into the hub's cache, in the layout that the hub's own library reads.

What has arrived of a file stays when its download breaks off, and the next one goes on behind it. The library itself
removes it, since its version 1.18 (findings/hub-download-begins-anew.sh).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

from vllava_cli.engine.repository import Listing, cache_folder, network_fault, plain, refusals, repository_folder
from vllava_cli.errors import HubError

Found = TypeVar("Found")
STALL_S = 10.0
"""How long a download may stand still before it is asked for anew."""
PAUSES_S = (0.0, 1.0, 2.0)
"""Before further attempts, as long as nothing arrives."""
AT_ONCE = 4


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    listing: Listing
    name: str
    url: str
    size: int | None
    blob: Path
    """Where the cache keeps its content, by its ETag."""

    @property
    def part(self) -> Path:
        """What has arrived of it."""
        return self.blob.with_name(f"{self.blob.name}.incomplete")

    @property
    def bytes_here(self) -> int:
        return next((path.stat().st_size for path in (self.blob, self.part) if path.exists()), 0)


def fetch(listing: Listing, names: Iterable[str], *, is_quiet: bool) -> None:
    """Has these files in the listing's folder; those that it lacks are fetched, several at once. Errors: HubError."""
    todo = [name for name in names if not (listing.folder / name).exists()]
    is_over = threading.Event()
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        files = _all(pool.submit(_look_up, listing, name) for name in todo)
        _check_room(listing, files)
        with _bar(files, is_quiet=is_quiet or not files) as bar:
            download = _Download(folder=listing.folder, bar=bar, is_over=is_over)
            try:
                _all(pool.submit(download.run, file) for file in files)
            except KeyboardInterrupt:
                bar.leave = True  # it says how much has arrived
                raise
    finally:
        is_over.set()
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class _Download:
    """Of several files, each in a thread of its own."""

    folder: Path
    bar: Any
    is_over: threading.Event

    def run(self, file: RemoteFile) -> None:
        """Has the file's content in the cache, and a link to it in the folder. Errors: HubError."""
        from huggingface_hub.utils import WeakFileLock

        repository = file.blob.parent.parent
        lock = repository.parent / ".locks" / repository.name / f"{file.blob.name}.lock"
        try:
            for folder in (lock.parent, file.blob.parent, self.folder):
                folder.mkdir(parents=True, exist_ok=True)
            with WeakFileLock(lock):
                if not file.blob.exists():
                    self._complete(file)
                    file.part.replace(file.blob)
                _link(file.blob, self.folder / file.name)
        except OSError as exc:
            raise HubError(
                f"The file {file.name} can't be kept in {repository}: {exc.strerror or exc}. Make room there, or set "
                "HF_HOME to another folder."
            ) from exc

    def _complete(self, file: RemoteFile) -> None:
        """Adds what `part` lacks. Where it turns out to be damaged, all of it is fetched anew, once."""
        is_taken_up = file.part.exists()
        with file.part.open("ab") as sink:
            self._grow(file, sink)
        if _is_sound(file):
            return
        self._count(-file.bytes_here)
        file.part.unlink()
        if not is_taken_up:
            raise HubError(f"What came from the hub as {file.name} is damaged: try again, or from another network.")
        self._complete(file)

    def _grow(self, file: RemoteFile, sink: IO[bytes]) -> None:
        pauses_s = iter(PAUSES_S)
        while file.size is None or sink.tell() < file.size:
            before, fault = sink.tell(), None
            try:
                self._receive(file, sink)
            except network_fault() as exc:
                fault = exc
            if file.size is None and fault is None:
                return
            if sink.tell() > before:
                pauses_s = iter(PAUSES_S)
            elif (pause_s := next(pauses_s, None)) is None:
                raise _broken_off(file.name) from fault
            else:
                self.is_over.wait(pause_s)

    def _receive(self, file: RemoteFile, sink: IO[bytes]) -> None:
        """Appends what arrives, from where `sink` ends."""
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        start = sink.tell()
        headers = build_hf_headers() | {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        request = get_session().stream("GET", file.url, headers=headers, timeout=STALL_S, follow_redirects=True)
        with refusals(file.listing.model, None, file.listing.kind), request as response:
            hf_raise_for_status(response)
            if start and response.status_code != 206:  # all of it, whatever was asked for
                sink.seek(0)
                sink.truncate()
                self._count(-start)
            for chunk in response.iter_bytes():
                if self.is_over.is_set():
                    raise _broken_off(file.name)
                sink.write(chunk)
                sink.flush()  # a process that is ended keeps it, too
                self._count(len(chunk))

    def _count(self, size: int) -> None:
        with self.bar.get_lock():
            self.bar.update(size)


def _look_up(listing: Listing, name: str) -> RemoteFile:
    """Errors: HubError."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(listing.model, name, revision=listing.commit)
    try:
        with refusals(listing.model, listing.commit, listing.kind):
            found = get_hf_file_metadata(url, timeout=STALL_S)
        blob = repository_folder(listing.model) / "blobs" / plain(found.etag)
    except (network_fault(), ValueError) as exc:
        raise _broken_off(name) from exc
    return RemoteFile(listing=listing, name=name, url=url, size=found.size, blob=blob)


def _all(futures: Iterable[Future[Found]]) -> list[Found]:
    """What each of them gives. The first error is raised at once."""
    begun = list(futures)
    for future in wait(begun, return_when=FIRST_EXCEPTION).done:
        future.result()
    return [future.result() for future in begun]


def _check_room(listing: Listing, files: list[RemoteFile]) -> None:
    """Errors: HubError where the disk is too small for what is missing."""
    left = sum((file.size or 0) - file.bytes_here for file in files)
    place = next(folder for folder in (cache_folder(), *cache_folder().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if left > free:
        raise HubError(
            f"The {listing.kind} {listing.model} takes {left / 1e9:.1f} GB more, and {cache_folder()} has "
            f"{free / 1e9:.1f} GB free: make room there, or set HF_HOME to a folder of a larger disk."
        )


def _bar(files: list[RemoteFile], *, is_quiet: bool) -> Any:
    """A line on stderr that goes away in the end, with room for the ^C of a terminal."""
    from huggingface_hub.utils import tqdm

    return tqdm(  # type: ignore[no-untyped-call]
        desc="Fetching",
        total=sum(file.size or 0 for file in files),
        initial=sum(file.bytes_here for file in files),
        unit="B",
        unit_scale=True,
        disable=is_quiet,
        leave=False,
        ncols=None if is_quiet else (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 3,
    )


def _is_sound(file: RemoteFile) -> bool:
    """Whether what arrived has the size and, where the ETag is one, the SHA-256 that the hub names."""
    if file.size is not None and file.bytes_here != file.size:
        return False
    with file.part.open("rb") as part:
        return len(file.blob.name) != 64 or hashlib.file_digest(part, "sha256").hexdigest() == file.blob.name


def _link(blob: Path, name: Path) -> None:
    name.unlink(missing_ok=True)  # a link whose blob was removed
    try:
        name.symlink_to(os.path.relpath(blob, name.parent))
    except OSError:  # not everybody may make links on Windows
        shutil.copyfile(blob, name)


def _broken_off(name: str) -> HubError:
    return HubError(f"The download of {name} broke off: run the same again, and it goes on from there.")
