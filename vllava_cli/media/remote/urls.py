"""What of a URL may be told, and what it is called in the cache. Pure; a URL may carry secrets."""

from __future__ import annotations

import hashlib
import re
from pathlib import PurePosixPath
from urllib.parse import unquote

from vllava_cli.media.suffixes import MEDIA_SUFFIXES

_KEY_LENGTH = 24


def without_secrets(url: str) -> str:
    """ "https://me:word@host/a.mp4?X-Signature=5#t" → "https://host/a.mp4"."""
    head, mark, rest = url.partition("://")
    rest = re.split("[?#]", rest, maxsplit=1)[0]
    authority, slash, path = rest.partition("/")
    return _one_line(f"{head}{mark}{authority.rpartition('@')[2]}{slash}{path}")


def scrubbed(text: str, url: str) -> str:
    """The first line of what a library said about a URL, without its secrets and its full stop."""
    line = (text.strip().splitlines() or [""])[0].replace(url, without_secrets(url))
    return _one_line(re.sub(r"(\w://[^\s?#]*)[?#][^\s'\")]*", r"\1", line)).rstrip(" .")


def key_of(url: str) -> str:
    """The name of a URL's entry: of all of it, as other secrets may lead to other contents."""
    return hashlib.sha256(url.encode(errors="surrogateescape")).hexdigest()[:_KEY_LENGTH]


def suffix_of(url: str) -> str:
    """ "s3://b/A.MP4?v=1" → ".mp4"; nothing where it is none that media have."""
    path = without_secrets(url).partition("://")[2].partition("/")[2]
    suffix = PurePosixPath(unquote(path)).suffix.lower()
    return suffix if suffix in MEDIA_SUFFIXES else ""


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
