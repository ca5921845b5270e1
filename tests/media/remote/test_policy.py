"""What `--allow` may say, which paths are URLs, and which of them may be fetched."""

from __future__ import annotations

import pickle

import pytest

from vllava_cli.errors import FetchError, UsageError
from vllava_cli.media.remote.policy import Allowed, allowed, scheme_of


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("s3://b/k", "s3"),
        ("S3://B/k", "s3"),
        ("https://host/a.mp4?x=a::b", "https"),
        ("http://[::1]/a.mp4", "http"),
        ("webdav+https://host/a", "webdav+https"),
        ("simplecache::s3://b/k", "simplecache"),
        ("zip://a.mp4::s3://b/k.zip", "zip"),
        ("file:///etc/passwd", "file"),
        ("clip.mp4", None),
        ("/data/clip.mp4", None),
        ("./s3://b/k", None),
        ("./s3:/x", None),
        ("s3:/x", None),
        ("C:\\x", None),
        ("C://x", None),
        ("a:b", None),
        ("ab::cd.mp4", None),
        ("://x", None),
        ("3s://x", None),
        ("-", None),
        ("", None),
    ],
)
def test_a_url_has_a_scheme_of_two_letters_or_more(path: str, scheme: str | None) -> None:
    assert scheme_of(path) == scheme


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), Allowed()),
        (("s3",), Allowed(schemes=frozenset({"s3"}))),
        (("s3,HTTPS", " gs "), Allowed(schemes=frozenset({"s3", "https", "gs"}))),
        (("loopback",), Allowed(has_loopback=True)),
        (("http,link-local",), Allowed(schemes=frozenset({"http"}), has_link_local=True)),
    ],
)
def test_what_is_named_is_allowed_and_nothing_else(words: tuple[str, ...], expected: Allowed) -> None:
    assert allowed(words) == expected
    assert pickle.loads(pickle.dumps(expected)) == expected


@pytest.mark.parametrize("scheme", ["file", "FILE", "local", "memory", "simplecache", "zip", "reference", "data"])
def test_what_leads_to_no_other_machine_is_never_allowed(scheme: str) -> None:
    with pytest.raises(UsageError) as caught:
        allowed([f"s3,{scheme}"])
    what = "can't be allowed: it leads to no other machine. Name local files by their paths."
    assert str(caught.value) == f"{scheme.lower()} {what}"


@pytest.mark.parametrize("word", ["", "s3,", "s3://", "zip::s3", "c", "3s", "s3 https", "s\n3"])
def test_what_is_no_scheme_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=r"^'.*' can't be allowed: name schemes, loopback or link-local, --allow s3"):
        allowed([word])


def test_a_named_scheme_may_be_fetched() -> None:
    assert allowed(["s3"]).scheme("S3://b/a.mp4") == "s3"
    assert allowed(["http"]).scheme("http://[::1]:8000/a.mp4") == "http"
    assert allowed(["s3"]).scheme("s3://b/a::b.mp4") == "s3"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("gs://b/x.mp4", "gs://b/x.mp4 isn't allowed: add --allow gs."),
        ("https://me:secret@h/x?sig=secret#t", "https://h/x isn't allowed: add --allow https."),
        ("x.mp4", "x.mp4 is no URL: name it with its scheme, s3://bucket/clip.mp4."),
        ("file:///x", "file:///x can't be fetched: file leads to no other machine. Name the clip's own URL."),
    ],
)
def test_others_are_refused_with_a_remedy(url: str, sentence: str) -> None:
    with pytest.raises(FetchError) as caught:
        allowed(["s3"]).scheme(url)
    assert (str(caught.value), caught.value.is_missing) == (sentence, False)


@pytest.mark.parametrize(
    "url", ["simplecache::s3://b/k", "s3::https://h/k", "s3://a.mp4::https://h/a.zip", "s3://a::memory::s3://b"]
)
def test_a_chain_of_urls_is_refused_whatever_is_allowed(url: str) -> None:
    with pytest.raises(FetchError, match=r"can't be fetched: it is a chain of URLs\. Name"):
        Allowed(schemes=frozenset({"s3", "https", "simplecache"})).scheme(url)
