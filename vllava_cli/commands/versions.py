"""Which releases of the libraries are installed."""

from __future__ import annotations

from importlib import metadata


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except (metadata.PackageNotFoundError, ValueError):  # a ValueError for a name that can't be one
        return None
