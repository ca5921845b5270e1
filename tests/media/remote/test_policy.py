"""The words of `--allow`, the URLs and addresses that they allow, and URLs without their secrets."""

from __future__ import annotations

import pickle

import pytest

from vllava_cli.errors import FetchError, UsageError
from vllava_cli.media.remote.policy import (
    AddressKind,
    Allowed,
    allowed,
    kind_of,
    scheme_of,
    scrubbed,
    suffix_of,
    without_secrets,
)


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("s3://b/k", "s3"),
        ("https://host/a.mp4?x=a::b", "https"),
        ("http://[::1]/a.mp4", "http"),
        ("simplecache::s3://b/k", "simplecache"),
        ("zip://a.mp4::s3://b/k.zip", "zip"),
        ("file:///etc/passwd", "file"),
        ("clip.mp4", None),
        ("./s3://b/k", None),
        ("C://x", None),
        ("a:b", None),
        ("ab::cd.mp4", None),
        ("://x", None),
        ("3s://x", None),
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
        (("loopback",), Allowed(addresses=frozenset({"loopback"}))),
        (("http,link-local",), Allowed(schemes=frozenset({"http"}), addresses=frozenset({"link-local"}))),
    ],
)
def test_what_is_named_is_allowed_and_nothing_else(words: tuple[str, ...], expected: Allowed) -> None:
    assert allowed(words) == expected
    assert pickle.loads(pickle.dumps(expected)) == expected


@pytest.mark.parametrize("scheme", ["file", "FILE", "local", "memory", "simplecache", "zip", "reference", "data"])
def test_what_leads_to_no_other_machine_is_never_allowed(scheme: str) -> None:
    with pytest.raises(UsageError) as caught:
        allowed([f"s3,{scheme}"])
    what = "can't be allowed: it doesn't lead to another machine. Name local files by their paths."
    assert str(caught.value) == f"{scheme.lower()} {what}"


@pytest.mark.parametrize("word", ["", "s3,", "s3://", "zip::s3", "c", "3s", "s3 https", "s\n3"])
def test_what_is_no_scheme_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=r"^'.*' can't be allowed: name schemes, loopback or link-local, like s3"):
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
        ("x.mp4", "x.mp4 is not a URL: name it with its scheme, like s3://bucket/clip.mp4."),
        ("file:///x", "file:///x can't be fetched: file doesn't lead to another machine. Name the clip's own URL."),
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
        ("https://h.mp4", ""),
    ],
)
def test_only_suffixes_of_media_are_taken_over(url: str, suffix: str) -> None:
    assert suffix_of(url) == suffix


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("127.0.0.1", "loopback"),
        ("0.0.0.0", "loopback"),
        ("::", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:0.0.0.0", "loopback"),
        ("::127.0.0.1", "loopback"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b:1::7f00:1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("2002:a9fe:a9fe::1", "link-local"),
        ("2001:0:4136:e378:8000:63bf:5601:5601", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fd00:ec2::254", "link-local"),
        ("fd20:ce::254", "link-local"),
        ("168.63.129.16", "link-local"),
        ("100.100.100.200", "link-local"),
        ("192.0.0.192", "link-local"),
        ("0.1.2.3", "nowhere"),
        ("224.0.0.1", "nowhere"),
        ("ff02::1", "nowhere"),
        ("::ffff:224.0.0.1", "nowhere"),
        ("4000::1", "nowhere"),
        ("localhost", "nowhere"),
        ("127.1", "nowhere"),
        ("", "nowhere"),
        ("10.1.2.3", None),
        ("100.64.0.1", None),
        ("93.184.216.34", None),
        ("fd12:3456::1", None),
        ("2606:2800:220:1::1", None),
        ("::ffff:10.0.0.1", None),
        ("64:ff9b::5db8:d822", None),
    ],
)
def test_an_address_has_a_kind(address: str, kind: AddressKind | None) -> None:
    assert kind_of(address) == kind


@pytest.mark.parametrize(
    ("word", "refused"),
    [
        ("s3", {"127.0.0.1": "add --allow loopback", "169.254.169.254": "add --allow link-local"}),
        ("loopback", {"169.254.169.254": "add --allow link-local"}),
        ("link-local", {"127.0.0.1": "add --allow loopback"}),
    ],
)
def test_each_kind_has_to_be_allowed(word: str, refused: dict[str, str]) -> None:
    allowed([word]).check_address("10.0.0.1", "http://host/a")
    for address, remedy in {**refused, "224.0.0.1": "name another host"}.items():
        with pytest.raises(FetchError, match=f"^http://host/a leads to {address}, which isn't allowed: {remedy}.$"):
            allowed([word]).check_address(address, "http://host/a")
    for address in {"127.0.0.1", "169.254.169.254"} - refused.keys():
        allowed([word]).check_address(address, "http://host/a")
