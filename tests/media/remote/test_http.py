"""http:// from a real server: what may be connected to, what is tried again, and what is told."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.media.remote.site import Answer, Site, content, in_turn, open_site, redirect, status
from vllava_cli.errors import FetchError, MissingError
from vllava_cli.media.remote.fetch import Fetcher
from vllava_cli.media.remote.policy import Timeouts, paced

pytest.importorskip("aiohttp")

Make = Callable[..., Fetcher]
BODY = bytes(range(256)) * 12_000
"""More than one chunk."""


@pytest.fixture
def elsewhere() -> Iterator[Site]:
    with open_site() as site:
        yield site


def refusal(fetcher: Fetcher, url: str) -> FetchError:
    with pytest.raises(FetchError) as caught, fetcher.fetched(url):
        pass
    return caught.value


@pytest.mark.parametrize("promised", [None, -1], ids=["size told", "size not told"])
def test_a_clip_is_fetched_byte_for_byte(site: Site, fetcher: Make, folder: Path, promised: int | None) -> None:
    site.answers["/a.mp4"] = content(BODY, promised=promised)
    with fetcher(most_bytes=len(BODY)).fetched(site.url("/a.mp4")) as clip:
        assert (clip.path.read_bytes(), clip.path.parent, clip.path.suffix) == (BODY, folder, ".mp4")
        assert clip.path.is_file()
        assert not clip.path.is_symlink()
    assert site.requests == {"GET /a.mp4": 1}
    assert site.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a%2Fb%20c.mp4?sig=%2F%3d+%7E#t=5", "/a%2Fb%20c.mp4?sig=%2F%3d+%7E"),
        ("/a b\N{LATIN SMALL LETTER E WITH ACUTE}.mp4", "/a%20b%C3%A9.mp4"),
        ("/100%.mp4", "/100%25.mp4"),
    ],
)
def test_a_url_is_sent_letter_by_letter_unless_it_has_to_be_encoded(
    site: Site, fetcher: Make, path: str, sent: str
) -> None:
    site.answers[sent.partition("?")[0]] = content(b"x")
    with fetcher().fetched(site.url(path)):
        pass
    assert set(site.requests) == {f"GET {sent}"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_this_machine_is_not_asked_unless_loopback_is_allowed(site: Site, fetcher: Make, host: str) -> None:
    site.answers["/a.mp4"] = content(b"x")
    error = refusal(fetcher("http"), site.url("/a.mp4?sig=secret", host=host))
    sentence = rf"http://{host}:{site.port}/a\.mp4 leads to \S+, which isn't allowed: add --allow loopback\."
    assert re.fullmatch(sentence, str(error))
    assert not site.requests


def test_a_name_of_this_machine_is_refused_over_https_as_well(fetcher: Make, waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0)
        error = refusal(fetcher("https"), f"https://localhost:{server.getsockname()[1]}/a.mp4")
        with pytest.raises(BlockingIOError):
            server.accept()
    assert str(error).endswith(", which isn't allowed: add --allow loopback.")
    assert waits == []


def test_a_name_that_leads_elsewhere_a_moment_later_is_refused_then(
    site: Site, fetcher: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.answers["/a.mp4"] = content(b"x")
    resolve, hosts = socket.getaddrinfo, ["10.255.255.254", "169.254.169.254"]

    def rebound(host: str, *words: object, **settings: object) -> object:
        return resolve(hosts.pop() if host == "rebound.example" else host, *words, **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(socket, "getaddrinfo", rebound)
    error = refusal(fetcher(), "http://rebound.example/a.mp4")
    assert str(error) == (
        "http://rebound.example/a.mp4 leads to 169.254.169.254, which isn't allowed: add --allow link-local."
    )
    assert hosts == ["10.255.255.254"]


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("http://169.254.169.254/latest/meta-data/", "169.254.169.254, which isn't allowed: add --allow link-local"),
        ("http://[fe80::1]/", "fe80::1, which isn't allowed: add --allow link-local"),
        ("http://[::ffff:a9fe:a9fe]/", "::ffff:169.254.169.254, which isn't allowed: add --allow link-local"),
        ("http://224.0.0.1/", "224.0.0.1, which isn't allowed: name another host"),
        ("https://me:pw@127.0.0.1/b?sig=1", "https://127.0.0.1/b, which isn't allowed: add --allow https"),
    ],
)
def test_a_redirect_is_checked_as_the_url_is(site: Site, fetcher: Make, target: str, reason: str) -> None:
    site.answers["/a.mp4"] = redirect(target)
    error = str(refusal(fetcher(), site.url("/a.mp4"))).replace("::ffff:a9fe:a9fe", "::ffff:169.254.169.254")
    assert error == f"{site.url('/a.mp4')} leads to {reason}."


def test_a_redirect_that_may_be_followed_is_without_cookies(site: Site, elsewhere: Site, fetcher: Make) -> None:
    site.answers["/a.mp4"] = status(302, **{"Location": elsewhere.url("/b.mp4", host="localhost"), "Set-Cookie": "a=b"})
    elsewhere.answers["/b.mp4"] = content(b"x")
    with fetcher().fetched(site.url("/a.mp4", host="localhost")) as clip:
        assert clip.path.read_bytes() == b"x"
    assert "Cookie" not in elsewhere.headers


def test_a_login_of_the_url_goes_to_its_own_host_alone(site: Site, elsewhere: Site, fetcher: Make) -> None:
    site.answers["/a.mp4"] = redirect(elsewhere.url("/b.mp4"))
    elsewhere.answers["/b.mp4"] = content(b"x")
    with fetcher().fetched(site.url("/a.mp4", login="me:word@")):
        pass
    assert site.headers["Authorization"].startswith("Basic ")
    assert "Authorization" not in elsewhere.headers


def test_proxies_of_the_environment_are_not_used(site: Site, fetcher: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    site.answers["/a.mp4"] = content(b"x")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with fetcher().fetched(site.url("/a.mp4")) as clip:
        assert clip.path.read_bytes() == b"x"


FORBIDDEN = "is refused: the server doesn't let us read it. Check the URL's signature or credentials ({})."


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (status(404), "doesn't exist: the server has nothing there. Check the URL."),
        (status(401), FORBIDDEN.format(401)),
        (status(403), FORBIDDEN.format(403)),
        (status(204), "can't be fetched: the server answers 204. Check the URL."),
        (
            content(b"x", Content_Encoding="gzip"),
            "can't be fetched: the server compressed it, though that wasn't requested.",
        ),
        (redirect("file:///etc/passwd"), "can't be fetched: it redirects to a scheme that isn't allowed."),
        (redirect("/a.mp4"), "can't be fetched: its redirects lead nowhere."),
    ],
)
def test_an_answer_that_no_second_attempt_would_change_is_told_at_once(
    site: Site, fetcher: Make, waits: list[float], answer: Answer, sentence: str
) -> None:
    site.answers["/a.mp4"] = answer
    error = refusal(fetcher(), site.url("/a.mp4?sig=secret", login="me:word@"))
    assert str(error).startswith(f"{site.url('/a.mp4')} {sentence}")
    assert (error.is_missing, isinstance(error, MissingError), waits) == (("exist" in sentence,) * 2 + ([],))


TORN = content(BODY[:-1], promised=len(BODY))


@pytest.mark.parametrize("passing", [status(500), status(503), status(429), status(408), TORN])
def test_what_may_pass_is_asked_for_again(site: Site, fetcher: Make, waits: list[float], passing: Answer) -> None:
    site.answers["/a.mp4"] = in_turn(passing, passing, content(BODY))
    with fetcher(most_bytes=len(BODY)).fetched(site.url("/a.mp4")) as clip:
        assert clip.path.read_bytes() == BODY
    assert waits == [1, 3]


def test_it_is_asked_three_times_more_and_then_told(site: Site, fetcher: Make, waits: list[float]) -> None:
    site.answers["/a.mp4"] = in_turn(status(503))
    error = refusal(fetcher(), site.url("/a.mp4?sig=secret"))
    sentence = f"{site.url('/a.mp4')} can't be fetched: the server answers 503. Try again later."
    assert (str(error), error.is_missing, waits) == (sentence, False, [1, 3, 9])
    assert site.requests["GET /a.mp4?sig=secret"] == 4


def test_a_server_that_falls_silent_or_whose_head_never_ends_is_left(
    site: Site, fetcher: Make, waits: list[float]
) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        with suppress(OSError):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not site.over.wait(0.01):
                handler.wfile.write(b"x")

    for answer, timeouts in ((stalling(site), Timeouts(silence_s=0.05)), (drip, Timeouts(block_s=0.05))):
        site.answers["/a.mp4"] = answer
        error = refusal(fetcher(timeouts=timeouts), site.url("/a.mp4"))
        assert str(error) == f"{site.url('/a.mp4')} can't be fetched: the server doesn't respond. Try again later."
    assert len(waits) == 6


def stalling(site: Site) -> Answer:
    """One byte of many, and no more."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        content(b"x", promised=1000)(handler)
        site.over.wait()

    return answer


def test_a_download_that_is_too_slow_on_average_is_left(
    site: Site, fetcher: Make, waits: list[float], folder: Path
) -> None:
    site.answers["/a.mp4"] = stalling(site)
    timeouts = Timeouts(clock=iter([0.0, 61.0]).__next__)
    error = refusal(fetcher(timeouts=timeouts), site.url("/a.mp4?sig=secret", login="me:word@"))
    slow = "1 byte came in 61 s, less than 16 KiB a second. Save it to a file, and name that."
    assert str(error) == f"{site.url('/a.mp4')} can't be fetched: {slow}"
    assert (waits, list(folder.iterdir())) == ([], [])


def paced_for(*steps: tuple[float, int, float]) -> list[int]:
    """The sizes that came: each step is how long a block took, its size, and how long its reader took."""
    times = [0.0]
    for took_s, _, kept_s in steps:
        times += [times[-1] + took_s, times[-1] + took_s + kept_s]
    read = iter([*(bytes(size) for _, size, _ in steps), b""]).__next__
    return [len(block) for block in paced("https://a/b", read, Timeouts(clock=iter(times).__next__))]


@pytest.mark.parametrize(
    "steps",
    [
        ((60, 1, 0), (0, 1_000_000, 0)),  # the first minute may bring what it likes
        ((60, 983_040, 0), (40, 655_360, 0)),  # 16 KiB a second
        ((1, 16_384, 3600), (60, 983_040, 3600), (1, 16_384, 0)),  # the disk may take its time
        ((50, 100_000_000, 0), (5000, 1, 0)),  # on average
    ],
)
def test_a_download_may_take_its_time(steps: tuple[tuple[float, int, float], ...]) -> None:
    assert paced_for(*steps) == [size for _, size, _ in steps]


def test_four_gigabytes_end_within_three_days() -> None:
    with pytest.raises(FetchError) as caught:
        paced_for((3 * 24 * 3600, 4 << 30, 0), (3600, 1, 0))
    slow = "4,294,967,297 bytes came in 262,800 s, less than 16 KiB a second. Save it to a file, and name that."
    assert str(caught.value) == f"https://a/b can't be fetched: {slow}"


def test_a_port_that_nobody_listens_at_is_tried_again(fetcher: Make, waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    error = refusal(fetcher(), f"http://127.0.0.1:{port}/a.mp4?sig=secret")
    assert str(error) == f"http://127.0.0.1:{port}/a.mp4 can't be fetched: connection refused. Try again later."
    assert len(waits) == 3


@pytest.mark.parametrize("host", ["no-such-host.invalid", "[::1", "a b", "127.1", "2130706433"])
def test_a_host_that_does_not_exist_is_told_at_once(fetcher: Make, waits: list[float], host: str) -> None:
    error = refusal(fetcher("http"), f"http://{host}/a.mp4")
    assert re.search(r"can't be fetched: (there is no such host|it isn't a valid URL)\. Check the URL\.$", str(error))
    assert waits == []


def test_a_scheme_that_is_not_allowed_asks_nobody(site: Site, fetcher: Make) -> None:
    error = refusal(fetcher("s3,loopback"), site.url("/a.mp4"))
    assert str(error) == f"{site.url('/a.mp4')} isn't allowed: add --allow http."
    with pytest.raises(FetchError, match="add --allow http"):
        fetcher("s3").check(site.url("/a.mp4"))
    assert not site.requests
