"""Requests name clips by data:, file: and http:// URLs and by uploads; nothing else on this machine can be opened."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.clips import write_clip
from tests.media.remote.site import Site, content, open_site, redirect, status
from tests.server.serving import Served
from tests.server.shelves import read, service_of
from tests.waiting import PATIENCE_S
from vllava_cli import demo
from vllava_cli.errors import (
    FetchError,
    ForbiddenError,
    MediaError,
    MissingError,
    ServerError,
    TooLargeError,
    VllavaError,
)
from vllava_cli.media.pixels import pixels_of
from vllava_cli.media.remote.policy import allowed
from vllava_cli.media.sample import sample
from vllava_cli.nouns import Frames, Framing
from vllava_cli.server.clips import clip_requests, root_files
from vllava_cli.server.clips.clip_requests import ClipWanted, read_clips
from vllava_cli.server.clips.private_folder import PrivateFolder
from vllava_cli.server.clips.root_files import root_file
from vllava_cli.server.service import Service

CLIP = demo.clips()[0]
BODY = CLIP.read_bytes()
DATA = f"data:video/mp4;base64,{b64encode(BODY).decode()}"


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with open_site() as site:
        site.answers["/a.mp4"] = content(BODY)
        yield site


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a clip, and all that a hostile request could hope for around it."""
    root = tmp_path_factory.mktemp("files") / "root"
    (root / "inner").mkdir(parents=True)
    (root.parent / "secret.mp4").write_bytes(BODY)
    (root.parent / "root-too").mkdir()
    (root.parent / "root-too/a.mp4").write_bytes(BODY)
    for name in ("a.mp4", "inner/b c%é.mp4", "%2e%2e", "100%.mp4"):
        (root / name).write_bytes(BODY)
    (root / "inside.mp4").symlink_to("a.mp4")
    (root / "outside.mp4").symlink_to(root.parent / "secret.mp4")
    (root / "up").symlink_to(root.parent)
    (root / "loop.mp4").symlink_to("loop.mp4")
    (root / "empty.mp4").touch()
    os.mkfifo(root / "pipe.mp4")
    (root.parent / "root-link").symlink_to(root)
    return root


@pytest.fixture(scope="module")
def service(demo_served: Served, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    words = allowed(("http,loopback",))
    with service_of(demo_served, tmp_path_factory.mktemp("scratch"), root=root, allowed=words) as service:
        yield service


def upload(service: Service, body: bytes = BODY) -> str:
    arriving = service.uploads.begin()
    try:
        arriving.write(body)
    except TooLargeError:
        arriving.abandon()
        raise
    return arriving.finish("a.mp4", "user_data").id


def refusal(service: Service, url: str) -> VllavaError:
    with pytest.raises(VllavaError) as caught:
        read(service, url)
    return caught.value


def test_a_clip_is_the_same_frames_however_it_is_named(service: Service, root: Path, site: Site) -> None:
    spaced = b64encode(BODY).decode()
    urls = [
        DATA,
        f"DATA:;charset=x;Base64,{spaced[:99]}\r\n\t {spaced[99:].rstrip('=')}",
        f"data:text/plain;base64,{urlsafe_b64encode(BODY).decode()}",
        f"data:image/png;base64,{quote(spaced, safe='')}",
        f"data:,{quote(BODY)}",
        upload(service),
        site.url("/a.mp4"),
        (root / "a.mp4").as_uri(),
        f"FILE:{root}/a.mp4",
        f"file://localhost{root}/inside.mp4",
        (root / "inner/b c%é.mp4").as_uri(),
        "file:inner/../a.mp4",
        "file:inner/b%20c%25é.mp4",
        "file:%252e%252e",
        "file:100%.mp4",
        f"file://{root.parent}/root-link/a.mp4",
        f"file:{root.parent}/root/up/root/a.mp4",
    ]
    found = read(service, *urls)
    assert {id(frames) for frames in found} == {id(found[0])}
    checkpoint = service.resident.tokens.checkpoint
    alone = sample(CLIP, Framing())
    assert pixels_of(found[0], checkpoint, "crop").equal(pixels_of(alone, checkpoint, "crop"))
    assert (found[0].times_s, found[0].clip.path) == (alone.times_s, Path("the clip"))
    assert list(service.folder.path.iterdir()) == [service.uploads.all()[0].path]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "file:///proc/self/environ",
        "file:///dev/zero",
        "file:{root}/../secret.mp4",
        "file:../secret.mp4",
        "file:..%2fsecret.mp4",
        "file:%2e%2e/secret.mp4",
        "file:inner/..%2f..%2fsecret.mp4",
        "file:{root}/outside.mp4",
        "file:outside.mp4",
        "file:up/secret.mp4",
        "file:up/nothing.mp4",
        "file:{root}-too/a.mp4",
        "file:{root}/up/root-too/a.mp4",
        "file:{root}",
        "file:.",
        "file:////etc/passwd",
        "file:///C:/clips/a.mp4",
        "file:///c|/clips/a.mp4",
        "file:/%5c%5chost/share/a.mp4",
    ],
)
def test_no_file_outside_the_root_is_opened(service: Service, root: Path, url: str) -> None:
    error = refusal(service, url.replace("{root}", str(root)))
    assert isinstance(error, ForbiddenError), error
    assert str(error).endswith(" isn't opened: it isn't below the folder of --root. Name a file in that.")
    assert "secret" not in str(error) or "secret" in url


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("file:nothing.mp4", "There is no file 'nothing.mp4'. Check the path."),
        ("file:a.mp4/b.mp4", "There is no file 'a.mp4/b.mp4'. Check the path."),
        ("file:inner", "'inner' is a folder. Name the video or image files in it."),
        ("file:empty.mp4", "'empty.mp4' is empty (0 bytes). Copy or download it again."),
        ("file:pipe.mp4", "'pipe.mp4' is a named pipe, not a regular file. Save it to a file first."),
        ("file:loop.mp4", "'loop.mp4' is something else, not a regular file. Save it to a file first."),
        ("file:a%00.mp4", "'file:a%00.mp4' names no file. Write it like file:///clips/a.mp4."),
        ("file:", "'file:' names no file. Write it like file:///clips/a.mp4."),
        ("file:a.mp4?x", "'file:a.mp4?x' has a ? or a #. In the name of a file, write %3F or %23."),
        ("file:a.mp4#t=5", "'file:a.mp4#t=5' has a ? or a #. In the name of a file, write %3F or %23."),
        (
            "file://host/a.mp4",
            "'file:/host/a.mp4' names a file of another host. Write it with three slashes: file:///clips/a.mp4.",
        ),
        ("data:a/b;base64", "A data: URI has no comma after its type. Write it like data:video/mp4;base64,AAAA…."),
        ("data:,", "'data:,…' is empty (0 bytes). Send the content of a clip."),
        ("data:a/b;base64,====", "'data:a/b,…' is empty (0 bytes). Send the content of a clip."),
        ("data:a/b;base64,AAA*", "'data:a/b,…' can't be decoded: it is not valid base64. Encode the file again."),
        ("data:a/b;base64,AAAAA", "'data:a/b,…' can't be decoded: it is not valid base64. Encode the file again."),
        ("data:a/b;base64,AA=A", "'data:a/b,…' can't be decoded: it is not valid base64. Encode the file again."),
        ("data:a/b;base64,é", "'data:a/b,…' can't be decoded: it is not valid base64. Encode the file again."),
        ("data:,\ud800", "A URL has letters that no text can have. Write them as codes, like %C3%A9."),
        ("file-0", "There is no upload 'file-0', or none any more. Send it to /v1/files again."),
        ("https://h/a", "https://h/a isn't allowed: add --allow https."),
        ("s3://b/a", "'s3://b/a' names no clip. Give a data:, file:, http:// or https:// URL, or the id of an upload."),
        ("/etc/a", "'/etc/a' names no clip. Give a data:, file:, http:// or https:// URL, or the id of an upload."),
    ],
)  # fmt: skip
def test_a_url_that_names_no_clip_is_refused_in_a_sentence(service: Service, url: str, sentence: str) -> None:
    assert str(refusal(service, url)) == sentence


def test_what_is_no_media_is_refused_without_a_path_of_the_server(service: Service) -> None:
    urls = ("data:video/mp4,hello", upload(service, b"hello"))
    assert [str(refusal(service, url)).replace("data:video/mp4,…", "a.mp4") for url in urls] == [
        "'a.mp4' is neither a video nor an image that can be read. Check the file or convert it to mp4."
    ] * 2


def test_without_a_root_no_file_is_opened(demo_served: Served, tmp_path: Path) -> None:
    with service_of(demo_served, tmp_path) as service:
        error = refusal(service, CLIP.as_uri())
    assert isinstance(error, ForbiddenError)
    assert str(error) == f"'{CLIP}' isn't opened: this server opens no files. Start it with --root FOLDER."


@pytest.mark.parametrize("url", ["file:outside.mp4", "file:up/secret.mp4"])
def test_a_link_that_appears_after_the_check_is_not_followed(
    service: Service, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(root_files, "_real", lambda root, name: Path(os.path.realpath(root)) / name)
    assert isinstance(refusal(service, url), MediaError)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux has /proc")
def test_a_file_that_is_replaced_while_it_is_read_is_still_the_one_that_was_checked(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(BODY)
    (tmp_path / "secret").write_bytes(b"secret")
    folder = PrivateFolder(tmp_path / "clips")
    clip, _ = root_file("file:a.mp4", tmp_path, folder)
    with clip.opened() as path:
        (tmp_path / "secret").replace(tmp_path / "a.mp4")
        assert path.read_bytes() == BODY
        assert path.suffix == ".mp4"
    with (
        pytest.raises(MediaError, match=r"^'a\.mp4' has changed since it was asked about\. Ask again\.$"),
        clip.opened(),
    ):
        pass
    assert not list(folder.path.iterdir())
    folder.close()


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        ("http://169.254.169.254/x", "leads to 169.254.169.254, which isn't allowed: add --allow link-local."),
        ("http://[fd00:ec2::254]/x", "leads to fd00:ec2::254, which isn't allowed: add --allow link-local."),
        ("https://127.0.0.1/x", "leads to https://127.0.0.1/x, which isn't allowed: add --allow https."),
        ("file:///x", "can't be fetched: it redirects to a scheme that isn't allowed. Name the URL that it leads to."),
    ],
)  # fmt: skip
def test_a_redirect_leads_to_no_place_that_is_not_allowed(
    service: Service, site: Site, target: str, sentence: str
) -> None:
    site.answers["/moved"] = redirect(target)
    error = refusal(service, site.url("/moved?sig=secret"))
    assert (type(error), str(error)) == (FetchError, f"{site.url('/moved')} {sentence}")


def test_a_server_is_not_made_to_ask_itself(demo_served: Served, site: Site, tmp_path: Path) -> None:
    before = site.requests.total()
    with service_of(demo_served, tmp_path, allowed=allowed(("http",))) as service:
        error = refusal(service, site.url("/a.mp4"))
    assert str(error) == f"{site.url('/a.mp4')} leads to 127.0.0.1, which isn't allowed: add --allow loopback."
    assert site.requests.total() == before


def test_a_clip_at_a_url_that_is_not_there(service: Service, site: Site) -> None:
    site.answers["/gone"] = status(404)
    assert str(refusal(service, site.url("/gone"))).endswith(
        "doesn't exist: the server has nothing there. Check the URL."
    )


@pytest.mark.parametrize("form", ["base64", "percent", "http", "upload"])
def test_the_largest_clip_that_is_taken(demo_served: Served, site: Site, tmp_path: Path, form: str) -> None:
    def named(service: Service) -> str:
        forms = {"base64": DATA, "percent": f"data:,{quote(BODY)}", "http": site.url("/a.mp4")}
        return forms.get(form) or upload(service)

    words = allowed(("http,loopback",))
    with service_of(demo_served, tmp_path, most_upload_bytes=len(BODY), allowed=words) as service:
        assert read(service, named(service))
    with service_of(demo_served, tmp_path, most_upload_bytes=len(BODY) - 1, allowed=words) as service:
        with pytest.raises(TooLargeError) as caught:
            read(service, named(service))
        if form == "http":
            most = f"has more than the {len(BODY) - 1:,} bytes that are taken. Name a shorter clip."
            assert str(caught.value) == f"{site.url('/a.mp4')} {most}"
        assert (service.shelf.figures.decoded, list(service.folder.path.iterdir())) == (0, [])


def test_one_bad_clip_of_several_is_the_error_and_the_others_are_read(service: Service, tmp_path: Path) -> None:
    other = f"data:,{quote(write_clip(tmp_path / 'a.mp4', 9).read_bytes())}"
    before = service.shelf.figures.decoded
    with pytest.raises(MediaError, match="'data:,…'"):
        read(service, "data:,hello", other)
    (frames,) = read(service, other)
    assert (service.shelf.figures.decoded, len(frames.times_s)) == (before + 1, 8)


def test_a_request_that_is_cancelled_does_not_end_the_clip_of_another(service: Service, tmp_path: Path) -> None:
    url = f"data:,{quote(write_clip(tmp_path / 'a.mp4', 12).read_bytes())}"

    async def two() -> int:
        one, other = (asyncio.ensure_future(read_clips(service, [ClipWanted(url=url)])) for _ in range(2))
        await asyncio.sleep(0.01)
        one.cancel()
        return len((await other)[0].times_s)

    assert asyncio.run(two()) == 8


@pytest.fixture
def slow(site: Site) -> Iterator[threading.Event]:
    """The clip at /slow.mp4 comes once this is set."""
    may_come = threading.Event()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        may_come.wait(PATIENCE_S)
        with suppress(OSError):
            content(BODY)(handler)

    site.answers["/slow.mp4"] = answer
    site.requests.clear()
    yield may_come
    may_come.set()


async def begun(service: Service, site: Site, count: int) -> list[asyncio.Task[tuple[Frames, ...]]]:
    """Lets so many requests ask for /slow.mp4, until its host was asked."""
    wanted = [ClipWanted(url=site.url("/slow.mp4"))]
    tasks = [asyncio.create_task(read_clips(service, wanted)) for _ in range(count)]
    while not site.requests:
        await asyncio.sleep(0.01)
    return tasks


def test_a_clip_that_many_ask_for_at_once_is_fetched_once_and_later_anew(
    service: Service, site: Site, slow: threading.Event
) -> None:
    async def asked() -> list[tuple[Frames, ...]]:
        tasks = await begun(service, site, 20)
        tasks.pop(0).cancel()
        slow.set()
        return await asyncio.gather(*tasks)

    found = asyncio.run(asked())
    assert (len(found), len({id(frames) for (frames,) in found}), site.requests.total()) == (19, 1, 1)
    read(service, site.url("/slow.mp4"))
    assert site.requests.total() == 2


def test_a_clip_that_many_ask_for_at_once_and_that_is_not_there(
    service: Service, site: Site, slow: threading.Event
) -> None:
    async def asked() -> list[tuple[Frames, ...] | BaseException]:
        tasks = await begun(service, site, 3)
        slow.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    site.answers["/slow.mp4"] = lambda handler: (slow.wait(PATIENCE_S), status(404)(handler))[1]
    faults = asyncio.run(asked())
    assert [type(fault) for fault in faults] == [MissingError] * 3
    assert (len({id(fault) for fault in faults}), site.requests.total()) == (3, 1)


@pytest.mark.usefixtures("slow")
def test_a_host_that_hangs_does_not_hold_the_end_of_the_server(
    demo_served: Served, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_requests, "ENDING_S", 0.2)

    async def asked(service: Service) -> None:
        (task,) = await begun(service, site, 1)
        service.life.end()
        await task

    with service_of(demo_served, tmp_path, allowed=allowed(("http,loopback",))) as service:
        with pytest.raises(ServerError) as caught:
            asyncio.run(asked(service))
        assert (
            str(caught.value) == f"The server is ending, and {site.url('/slow.mp4')} hasn't come yet. Ask again later."
        )


def test_the_folder_of_temporary_files_stays_empty(
    demo_served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with service_of(demo_served, tmp_path, allowed=allowed(("http,loopback",))) as service:
        read(service, DATA, site.url("/a.mp4"))
        assert [path.name for path in tmp_path.iterdir()] == ["clips"]
        assert [*service.folder.path.iterdir()] == []
    assert [*(tmp_path / "clips").iterdir()] == []
