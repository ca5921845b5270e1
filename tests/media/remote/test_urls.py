"""No secret of a URL is told; its entry is named after all of it."""

from __future__ import annotations

import pytest

from vllava_cli.media.remote.urls import key_of, scrubbed, suffix_of, without_secrets


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://b/a b.mp4", "s3://b/a b.mp4"),
        ("https://me:word@host:8/a@b.mp4?X-Signature=5#t", "https://host:8/a@b.mp4"),
        ("https://me:w@rd@host", "https://host"),
        ("https://host?token=5", "https://host"),
        ("https://host/\x1b[31ma", "https://host/\N{REPLACEMENT CHARACTER}[31ma"),
        ("clip.mp4", "clip.mp4"),
    ],
)
def test_user_query_and_fragment_are_not_told(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_what_a_library_says_of_a_url_is_scrubbed() -> None:
    url = "https://me:word@host/a?sig=5"
    text = f"404, url={url}. \nmore"
    assert scrubbed(text, url) == "404, url=https://host/a"
    assert scrubbed("no 'https://other/a?sig=5' here", url) == "no 'https://other/a' here"
    assert scrubbed("", url) == ""


@pytest.mark.parametrize(
    ("url", "suffix"),
    [
        ("s3://b/a.MP4", ".mp4"),
        ("https://h/a.webm?x=.gif", ".webm"),
        ("https://h/a%2Emov", ".mov"),
        ("https://h/a.mp4/", ".mp4"),
        ("https://h/a.exe", ""),
        ("https://h/.mp4", ""),
        ("https://h.mp4", ""),
        ("https://h/a", ""),
    ],
)
def test_only_suffixes_of_media_are_taken_over(url: str, suffix: str) -> None:
    assert suffix_of(url) == suffix


def test_other_secrets_give_another_key() -> None:
    assert key_of("https://h/a?sig=1") != key_of("https://h/a?sig=2")
    assert len(key_of("https://h/\udc80")) == 24
