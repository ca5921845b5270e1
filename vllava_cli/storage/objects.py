"""Rows in an object store, s3://BUCKET/RUN or gs://…, by fsspec. An object is put whole and never appended to.

Objects are not locked: two runs that write to one URL at the same time do the same work twice.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vllava_cli.errors import OutputError, os_reason
from vllava_cli.storage.files import as_output_error
from vllava_cli.storage.jsonl import MAX_ROW_BYTES, line_of, row_of

LIST = "run.jsonl.jobs"
_URL = re.compile(r"[a-z][a-z0-9+.-]+://[^/].*")
_ROWS = re.compile(r"rows-(\d{6,})-[0-9a-f]{8}\.jsonl")


def is_url(name: str) -> bool:
    """True for a URL such as "s3://bucket/run"; False for "c:/x", "/a" and "s3:/x"."""
    return bool(_URL.fullmatch(name))


class Objects:
    """The objects below a URL. Errors of each method: OutputError."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with _as_output_error(self.url):
            import fsspec

            # Listings are not cached, so that objects of other processes are seen.
            self._files, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)

    def names(self) -> list[str]:
        """Lists the names directly below the URL, sorted; [] if nothing is there yet."""
        with _as_output_error(self.url, "read"):
            self._files.invalidate_cache()
            try:
                found = self._files.ls(self._root, detail=False)
            except FileNotFoundError:
                return []
        return sorted(str(name).rstrip("/").rpartition("/")[2] for name in found)

    def put_file(self, path: Path, name: str) -> None:
        with _as_output_error(f"{self.url}/{name}"):
            self._files.put_file(str(path), f"{self._root}/{name}")

    def fetch(self, name: str, path: Path) -> None:
        with _as_output_error(f"{self.url}/{name}", "read"):
            self._files.get_file(f"{self._root}/{name}", str(path))

    def remove(self, names: Iterable[str]) -> None:
        with _as_output_error(self.url):
            for name in names:
                self._files.rm_file(f"{self._root}/{name}")

    def row_names(self) -> list[str]:
        """Lists the objects that hold rows, in the order in which they were put."""
        return sorted((name for name in self.names() if _ROWS.fullmatch(name)), key=_number)

    def put_rows(self, rows: Iterable[Mapping[str, object]], number: int) -> None:
        """Uploads rows as one object, whole or not at all. A random suffix keeps its name unique across runs.

        fsspec puts a file when its `with` block ends, even after an error; in a transaction, an error discards it.
        """
        name = f"rows-{number:06}-{secrets.token_hex(4)}.jsonl"
        with (
            _as_output_error(f"{self.url}/{name}"),
            self._files.transaction,
            self._files.open(f"{self._root}/{name}", "wb") as file,
        ):
            file.writelines(map(line_of, rows))

    def next_number(self) -> int:
        return max(map(_number, self.row_names()), default=0) + 1

    def lines(self) -> Iterator[bytes]:
        """Yields the lines of all rows, in the order of the objects."""
        for name in self.row_names():
            with _as_output_error(f"{self.url}/{name}", "read"), self._files.open(f"{self._root}/{name}", "rb") as file:
                yield from iter(partial(BufferedReader(file).readline, MAX_ROW_BYTES + 1), b"")


@contextmanager
def scratch() -> Iterator[Path]:
    """Makes a temporary folder for objects and deletes it afterwards. Errors: OutputError if it can't be made."""
    try:
        folder = TemporaryDirectory(prefix="vllava-")
    except OSError as exc:
        reason = os_reason(exc)
        raise OutputError(f"The temporary folder can't be used: {reason}. Set TMPDIR to a folder with room.") from exc
    with folder as name:
        yield Path(name)


def rows_into(objects: Objects, folder: Path) -> Path:
    """Fetches the last row of each job and the list of the jobs into `folder`; returns the path of the rows.

    The rows are read from the store only once, because more rows may arrive meanwhile.
    """
    path, fetched = folder / LIST.removesuffix(".jobs"), folder / "fetched"
    if LIST in objects.names():
        objects.fetch(LIST, folder / LIST)
    last: dict[str, int] = {}
    with as_output_error(folder):
        with fetched.open("wb") as file:
            for number, line in enumerate(objects.lines()):
                last[_id(line, objects.url)] = number
                file.write(line.rstrip(b"\n") + b"\n")
        kept = set(last.values())
        with fetched.open("rb") as lines, path.open("wb") as file:
            file.writelines(line for number, line in enumerate(lines) if number in kept)
        fetched.unlink()
    return path


@contextmanager
def _as_output_error(url: str, verb: str = "written to") -> Iterator[None]:
    """Turns whatever a store's library raises into an OutputError of one sentence."""
    try:
        yield
    except (OutputError, KeyboardInterrupt):
        raise
    except ImportError as exc:
        raise OutputError(f"{url} needs a library that isn't here: {exc}. Try pip install 'vllava[ray]'.") from exc
    except Exception as exc:
        reason = str(exc).strip().splitlines()
        raise OutputError(f"{url} can't be {verb}: {reason[0].rstrip('.') if reason else type(exc).__name__}.") from exc


def _id(line: bytes, url: str) -> str:
    row: Mapping[str, Any] | None = row_of(line)
    if row is None or not isinstance(row.get("id"), str):
        raise OutputError(f"{url} has a row without an id: it was not written by vllava batch. Name another place.")
    return str(row["id"])


def _number(name: str) -> int:
    found = _ROWS.fullmatch(name)
    return int(found[1]) if found else 0
