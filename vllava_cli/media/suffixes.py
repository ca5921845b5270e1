"""The endings that files of videos and of images have, in lower case."""

from __future__ import annotations

VIDEO_SUFFIXES = (
    *(".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".ogv", ".3gp", ".m2ts", ".mts", ".ts"),
)
"""The likeliest first: where only the name of a clip is known and several files have it, this order decides."""
IMAGE_SUFFIXES = (".apng", ".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
MEDIA_SUFFIXES = (*VIDEO_SUFFIXES, *IMAGE_SUFFIXES)
