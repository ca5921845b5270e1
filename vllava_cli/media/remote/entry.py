"""The names of the cache's files, and what lies beside a clip: KEY-DIGEST.mp4, KEY.json; KEY.part while it is fetched.

KEY is the URL's, DIGEST that of the content, so that a new version never takes the place of one that is in use.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from vllava_cli.errors import VllavaError
from vllava_cli.media.remote.source import Facts
from vllava_cli.media.remote.urls import key_of, suffix_of, without_secrets
from vllava_cli.storage.fields import Fields
from vllava_cli.storage.files import write_all

CLIP = re.compile(r"([0-9a-f]{24})-[0-9a-f]{16}(\.\w+)?")
PART = re.compile(r"([0-9a-f]{24})\.part")
SIDECAR = re.compile(r"([0-9a-f]{24})\.json(\.new)?")
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What was fetched, and what its server said of it then."""

    bytes: int
    sha256: str
    remote: Facts

    def path(self, folder: Path, url: str) -> Path:
        return folder / f"{key_of(url)}-{self.sha256[:16]}{suffix_of(url)}"

    def is_in(self, descriptor: int) -> bool:
        """Whether the file is what was fetched, byte for byte."""
        if os.fstat(descriptor).st_size != self.bytes:
            return False
        with open(descriptor, "rb", closefd=False) as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


def part_path(folder: Path, url: str) -> Path:
    return folder / f"{key_of(url)}.part"


def read_entry(folder: Path, url: str) -> Entry | None:
    """None where there is none that can be used."""
    try:
        fields = Fields(json.loads(_sidecar(folder, url).read_bytes()), "", error=VllavaError)
        remote = fields.inside("remote")
        facts = Facts(
            bytes=remote.maybe("bytes", remote.whole),
            mark=remote.maybe("mark", remote.text),
            modified=remote.maybe("modified", remote.text),
        )
        return Entry(bytes=fields.whole("bytes"), sha256=fields.sha256("sha256"), remote=facts)
    except (OSError, ValueError, TypeError, RecursionError, VllavaError):
        return None


def write_entry(folder: Path, url: str, entry: Entry) -> None:
    """Whole or not at all; for who has the folder alone. Errors: OSError."""
    row = {"url": without_secrets(url), **asdict(entry)}
    path = _sidecar(folder, url)
    new = path.with_name(f"{path.name}.new")
    descriptor = os.open(new, _FLAGS, 0o600)
    try:
        write_all(descriptor, json.dumps(row, indent=1).encode("ascii") + b"\n")
    finally:
        os.close(descriptor)
    new.replace(path)


def _sidecar(folder: Path, url: str) -> Path:
    return folder / f"{key_of(url)}.json"
