"""Opens files that file: URLs name: those below one folder alone, whatever links, dots or codes a URL has."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import unquote_to_bytes

from vllava_cli.errors import ForbiddenError, MediaError, os_reason, quoted
from vllava_cli.media.file_check import MEDIA_SUFFIXES, check_facts
from vllava_cli.server.clips.media_shelf import ClipContent, file_key, is_older
from vllava_cli.server.clips.private_folder import PrivateFolder

_FORM = re.compile(r"file:(?://(?P<host>[^/]*))?(?P<path>.*)", re.IGNORECASE | re.DOTALL)
_DRIVE = re.compile(r"/[A-Za-z]:[/\\]")
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def path_of(url: str) -> Path:
    """Returns the path that a file: URL names: "file:///clips/a%20b.mp4" → /clips/a b.mp4; "file:a.mp4" → a.mp4.

    Errors: MediaError for another machine's files, and for a ? or # that isn't written as a code.
    """
    found = _FORM.fullmatch(url)
    if found is None:
        raise MediaError(f"{_shown(url)} is not a file: URL. Write it like file:///clips/a.mp4.")
    if (found["host"] or "localhost").lower() != "localhost":
        raise MediaError(
            f"{_shown(url)} names a file of another host. Write it with three slashes: file:///clips/a.mp4."
        )
    if re.search("[?#]", found["path"]):
        raise MediaError(f"{_shown(url)} has a ? or a #. In the name of a file, write %3F or %23.")
    path = unquote_to_bytes(found["path"])
    if not path or b"\0" in path:
        raise MediaError(f"{_shown(url)} names no file. Write it like file:///clips/a.mp4.")
    name = os.fsdecode(path)
    return Path(name[1:] if sys.platform == "win32" and _DRIVE.match(name) else name)


def root_file(url: str, root: Path | None, folder: PrivateFolder) -> tuple[ClipContent, Path]:
    """Returns the content of the file that a URL names, and its name for messages.

    The file is opened before the decoding process reads it, so that nobody can put another in its place: the process
    gets a link in `folder` to the open file. Errors: ForbiddenError, MediaError; those of `path_of`.
    """
    name = path_of(url)
    if root is None:
        raise ForbiddenError(f"{quoted(name)} isn't opened: this server opens no files. Start it with --root FOLDER.")
    with _opened_below(root, name) as descriptor:
        facts = os.fstat(descriptor)
        key, is_old = file_key(facts), is_older(facts)

    @contextmanager
    def opened() -> Iterator[Path]:
        with _opened_below(root, name) as descriptor:
            if file_key(os.fstat(descriptor)) != key:
                raise MediaError(f"{quoted(name)} has changed since it was asked about. Ask again.")
            with _reachable(descriptor, _real(root, name), folder) as path:
                yield path

    def is_settled() -> bool:
        with suppress(MediaError), _opened_below(root, name) as descriptor:
            return is_old and file_key(os.fstat(descriptor)) == key
        return False

    return ClipContent(key=key, opened=opened, is_settled=is_settled), name


@contextmanager
def _opened_below(root: Path, name: Path) -> Iterator[int]:
    """Opens a file below the root and yields its descriptor. Errors: ForbiddenError, MediaError."""
    real = _real(root, name)
    try:
        descriptor = _walked(Path(os.path.realpath(root)), real, quoted(name))
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise MediaError(f"There is no file {quoted(name)}. Check the path.") from exc
    except (OSError, ValueError) as exc:
        raise MediaError(f"{quoted(name)} can't be read: {os_reason(exc)}. Check the path.") from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _real(root: Path, name: Path) -> Path:
    """Returns a path below the root, without links and dots. Errors: ForbiddenError for any other, there or not."""
    is_foreign = sys.platform == "win32" and os.fspath(name).startswith(("\\\\", "//"))
    real_root = Path(os.path.realpath(root))
    if not is_foreign:
        with suppress(OSError, ValueError):
            real = Path(os.path.realpath(real_root / name))
            if real.is_relative_to(real_root) and real != real_root:
                return real
    raise ForbiddenError(f"{quoted(name)} isn't opened: it isn't below the folder of --root. Name a file in that.")


def _walked(root: Path, real: Path, name: str) -> int:
    """Opens a file folder by folder and follows no link: a path that was replaced by one isn't opened.

    Errors: MediaError for anything but a regular file that isn't empty; OSError.
    """
    if os.open not in os.supports_dir_fd:
        check_facts(name, real.stat())
        return os.open(real, _FLAGS | getattr(os, "O_BINARY", 0))
    *folders, last = real.relative_to(root).parts
    place = os.open(root, _FLAGS | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, _FLAGS | os.O_DIRECTORY, dir_fd=place)
            os.close(place)
            place = inner
        check_facts(name, os.stat(last, dir_fd=place, follow_symlinks=False))
        descriptor = os.open(last, _FLAGS, dir_fd=place)
    finally:
        os.close(place)
    try:
        check_facts(name, os.fstat(descriptor))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _reachable(descriptor: int, real: Path, folder: PrivateFolder) -> Iterator[Path]:
    """Yields a path by which the decoding process reaches an open file; without /proc, that is the file's own path."""
    opened = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
    try:
        is_there = os.path.samestat(opened.stat(), os.fstat(descriptor))
    except OSError:
        is_there = False
    if not is_there:
        yield real
        return
    suffix = real.suffix if real.suffix.lower() in MEDIA_SUFFIXES else ""
    with folder.link(opened, suffix) as path:
        yield path


def _shown(url: str) -> str:
    return quoted(Path(url[:200]))
