"""s3:// from a real server of its protocol, and other schemes without their libraries."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vllava_cli.errors import FetchError, MissingError
from vllava_cli.media.remote import store
from vllava_cli.media.remote.fetch import Fetcher
from vllava_cli.media.remote.policy import PassingError, Timeouts

pytest.importorskip("aiohttp")
boto3 = pytest.importorskip("boto3")
S3FileSystem: Any = pytest.importorskip("s3fs").S3FileSystem
ThreadedMotoServer: Any = pytest.importorskip("moto.server").ThreadedMotoServer

Make = Callable[..., Fetcher]
BODY = bytes(range(256)) * 40_000
"""More than one block."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A client that puts things into the bucket `clips`."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="clips")
    yield client
    S3FileSystem.clear_instance_cache()


def refusal(fetcher: Fetcher, url: str) -> FetchError:
    with pytest.raises(FetchError) as caught, fetcher.fetched(url):
        pass
    return caught.value


def test_a_clip_of_a_bucket_is_fetched_each_time(s3: Any, fetcher: Make, folder: Path) -> None:
    """Its endpoint is this machine: the user's own word."""
    for body in (BODY, b"new", b""):
        s3.put_object(Bucket="clips", Key="x y/a::b.mp4", Body=body)
        with fetcher("s3", most_bytes=len(BODY)).fetched("s3://clips/x y/a::b.mp4") as clip:
            assert (clip.path.read_bytes(), clip.path.parent, clip.path.suffix) == (body, folder, ".mp4")


def test_an_object_that_comes_too_slowly_is_left(s3: Any, fetcher: Make, waits: list[float]) -> None:
    s3.put_object(Bucket="clips", Key="a.mp4", Body=BODY)
    timeouts = Timeouts(clock=iter([0.0, 100.0, 200.0, 800.0]).__next__)
    error = refusal(fetcher("s3", most_bytes=len(BODY), timeouts=timeouts), "s3://clips/a.mp4")
    slow = "10,240,000 bytes came in 700 s, less than 16 KiB a second. Save it to a file, and name that."
    assert (str(error), waits) == (f"s3://clips/a.mp4 can't be fetched: {slow}", [])


def test_an_object_larger_than_a_clip_may_be_is_not_read(s3: Any, fetcher: Make) -> None:
    s3.put_object(Bucket="clips", Key="large.mp4", Body=b"x" * 11)
    assert "that a clip may have" in str(refusal(fetcher("s3", most_bytes=10), "s3://clips/large.mp4"))


@pytest.mark.parametrize("url", ["s3://clips/none.mp4", "s3://no-such-bucket/a.mp4"])
@pytest.mark.usefixtures("s3")
def test_what_is_not_there_is_missing_at_once(fetcher: Make, waits: list[float], url: str) -> None:
    error = refusal(fetcher("s3"), f"{url}?sig=secret")
    assert isinstance(error, MissingError)
    assert str(error) == f"{url} doesn't exist: the server has nothing there. Check the URL."
    assert waits == []


def test_a_folder_is_no_clip(s3: Any, fetcher: Make, waits: list[float]) -> None:
    s3.put_object(Bucket="clips", Key="folder/a.mp4", Body=b"x")
    sentence = "s3://clips/folder can't be fetched: it is a folder. Name the files in it."
    assert (str(refusal(fetcher("s3"), "s3://clips/folder")), waits) == (sentence, [])


@pytest.mark.usefixtures("s3")
def test_without_credentials_a_bucket_refuses(
    fetcher: Make, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert str(refusal(fetcher("s3"), "s3://clips/a.mp4")) == (
        "s3://clips/a.mp4 is refused: the server doesn't let us read it. "
        "Check AWS_ACCESS_KEY_ID and AWS_PROFILE, or set FSSPEC_S3_ANON=true for a public bucket."
    )
    assert waits == []


@pytest.mark.usefixtures("s3")
def test_an_endpoint_that_nobody_listens_at_is_tried_again(
    fetcher: Make, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setattr(S3FileSystem, "retries", 1)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    error = refusal(fetcher("s3"), "s3://clips/a.mp4")
    assert str(error).startswith("s3://clips/a.mp4 can't be fetched: Could not connect to the endpoint URL")
    assert str(error).endswith(". Try again later.")
    assert waits == [1, 3, 9]


@pytest.mark.parametrize(
    ("scheme", "library", "remedy"), [("s3", "s3fs", "Run pip install s3fs"), ("gs", "gcsfs", "Run pip install gcsfs")]
)
def test_a_library_that_is_not_installed_is_named(
    fetcher: Make, monkeypatch: pytest.MonkeyPatch, scheme: str, library: str, remedy: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    for name in (scheme, "s3a", "gcs"):  # what was loaded before
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, name, raising=False)
    error = refusal(fetcher(scheme), f"{scheme}://b/a.mp4")
    assert str(error) == f"{scheme}://b/a.mp4 can't be fetched: the library for {scheme} isn't installed. {remedy}."


def test_a_scheme_that_nobody_knows_is_told(fetcher: Make) -> None:
    error = refusal(fetcher("htps"), "htps://10.0.0.1/a.mp4")
    assert str(error) == "htps://10.0.0.1/a.mp4 can't be fetched: fsspec knows no scheme htps. Check the URL."


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("localhost", r"(127\.0\.0\.1|::1), which isn't allowed: add --allow loopback\."),
        ("169.254.169.254", r"169\.254\.169\.254, which isn't allowed: add --allow link-local\."),
    ],
)
def test_a_host_of_another_scheme_is_checked(fetcher: Make, host: str, reason: str) -> None:
    error = refusal(fetcher("ftp"), f"ftp://me:word@{host}:21/a.mp4")
    assert re.fullmatch(rf"ftp://{host}:21/a\.mp4 leads to {reason}", str(error))


class HttpError(Exception):
    """As gcsfs has it."""

    def __init__(self, code: int) -> None:
        super().__init__(f"oops, {code}")
        self.code = code


class NoCredentialsError(Exception):
    pass


@pytest.mark.parametrize(
    ("fault", "kind", "sentence"),
    [
        (FileNotFoundError("gs://b/a"), MissingError, "doesn't exist"),
        (HttpError(404), MissingError, "doesn't exist"),
        (HttpError(403), FetchError, "is refused: .* set FSSPEC_GS_TOKEN=anon"),
        (OSError("Forbidden: b/a\nmore"), FetchError, "is refused"),
        (PermissionError("no"), FetchError, "is refused"),
        (NoCredentialsError("none"), FetchError, "is refused"),
        (HttpError(503), PassingError, "can't be fetched: oops, 503"),
        (HttpError(400), FetchError, "can't be fetched: oops, 400. Check the URL"),
        (OSError(5, "slow down"), PassingError, "slow down"),
        (OSError(22, "bad name"), FetchError, "bad name. Check"),
        (ConnectionResetError(104, "reset"), PassingError, "reset"),
        (TimeoutError(), PassingError, "TimeoutError"),
        (ValueError("gs://b/a?sig=secret is odd."), FetchError, "can't be fetched: gs://b/a is odd. Check"),
    ],
)
def test_faults_of_libraries_have_kinds(fault: Exception, kind: type[FetchError], sentence: str) -> None:
    error = store.fault_of("gs://b/a?sig=secret", "gs", fault)
    assert re.search(sentence, str(error))
    assert type(error) is kind
    assert "secret" not in str(error)
