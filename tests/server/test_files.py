"""Clips are uploaded as OpenAI's protocol has it; what isn't whole or is too large leaves nothing behind."""

from __future__ import annotations

import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.server.serving import Served, served
from vllava_cli import demo
from vllava_cli.errors import BusyError, MediaError
from vllava_cli.nouns import DEMO_MODEL, Wishes
from vllava_cli.server.clips import uploads
from vllava_cli.server.clips.private_folder import PrivateFolder
from vllava_cli.server.clips.uploads import ArrivingUpload, Uploads
from vllava_cli.server.serve_settings import ServeSettings

BODY = demo.clips()[0].read_bytes()
MOST = len(BODY) + 10
NO_FORM = "The body is not a form with a file. Send multipart/form-data, as in curl -F file=@clip.mp4."
ONE_FILE = "A form takes one file, in its field 'file'. Send others by forms of their own."
TOO_LARGE = f"The upload has more than the {MOST:,} bytes that are taken. Send a shorter clip."
HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
TEXT = HEAD.replace(b"; filename", b"; other")


@pytest.fixture(scope="module")
def small(demo_served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that takes uploads of the demo's size, and hardly larger ones."""
    settings = ServeSettings(wishes=Wishes(model=DEMO_MODEL), most_upload_bytes=MOST)
    with served(demo_served.service.resident.engine, tmp_path_factory.mktemp("small"), settings) as running:
        yield running


def sent(small: Served, body: bytes, kind: str = "multipart/form-data; boundary=x") -> httpx.Response:
    return httpx.post(f"{small.url}/v1/files", content=body, headers={"Content-Type": kind})


def kept(small: Served) -> list[Path]:
    return sorted(small.service.folder.path.iterdir())


def until(is_so: Callable[[], bool]) -> None:
    left = 1000
    while not is_so():
        left -= 1
        assert left, "it never came to be so"
        time.sleep(0.01)


def test_the_openai_package_uploads_lists_reads_and_deletes(small: Served) -> None:
    client = openai.OpenAI(base_url=f"{small.url}/v1", api_key="none", max_retries=0, timeout=20)
    made = [
        client.files.create(file=(name, BODY), purpose="user_data") for name in ("C:\\a\\b.mp4", "/né/c.mp4", "né.mp4")
    ]
    assert [(each.filename, each.bytes, each.purpose, each.status) for each in made] == [
        (name, len(BODY), "user_data", "processed") for name in ("b.mp4", "c.mp4", "né.mp4")
    ]
    assert [each.id for each in client.files.list(order="asc", limit=2)] == [each.id for each in made]
    assert [each.id for each in client.files.list(purpose="vision")] == []
    assert client.files.retrieve(made[0].id) == made[0]
    assert client.files.content(made[0].id).read() == BODY
    assert [(path.read_bytes() == BODY, stat.S_IMODE(path.stat().st_mode)) for path in kept(small)] == [
        (True, 0o600)
    ] * 3
    assert stat.S_IMODE(small.service.folder.path.stat().st_mode) == 0o700
    for each in made:
        assert client.files.delete(each.id).deleted
    for call in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError, match=f"There is no file '{made[0].id}'"):
            call(made[0].id)
    assert kept(small) == []


def test_a_file_comes_back_as_one_to_save(small: Served) -> None:
    body = HEAD.replace(b"a.mp4", b"a.html") + b"<script>\r\n--x--"
    id = sent(small, body).json()["id"]
    headers = httpx.get(f"{small.url}/v1/files/{id}/content").headers
    assert (headers["content-type"], headers["x-content-type-options"]) == ("application/octet-stream", "nosniff")
    assert headers["content-disposition"] == 'attachment; filename="a.html"'
    small.service.uploads.delete(id)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, NO_FORM),
        (b"no form", 400, NO_FORM),
        (HEAD + BODY, 400, NO_FORM),
        (b"--x\r\n" + b"a" * 9000, 400, NO_FORM),
        (HEAD[:-2] + b"A: b\r\n" * 9 + b"\r\na\r\n--x--", 400, NO_FORM),
        (HEAD + b"\r\n--x--", 400, "The uploaded file is empty (0 bytes). Send the content of a clip."),
        (HEAD + b"a\r\n" + HEAD + b"b\r\n--x--", 400, ONE_FILE),
        (HEAD.replace(b'"file"', b'"clip"') + b"a\r\n--x--", 400, ONE_FILE),
        (TEXT + b"a\r\n--x--", 400, "The form has no file. Send one in the field 'file'."),
        (TEXT + b"a" * 4097 + b"\r\n--x--", 400, "A field of the form has more than 4,096 bytes. Shorten it."),
        ((TEXT + b"a\r\n") * 17 + b"--x--", 400, "The form has more than 16 fields. Leave some out."),
        (HEAD + b"a" * (MOST + 1) + b"\r\n--x--", 413, TOO_LARGE),
        (HEAD + b"a" * (MOST + (1 << 19)) + b"\r\n--x--", 413, TOO_LARGE),
        (HEAD + b"a\r\n--x--" + b"a" * (1 << 19), 413, TOO_LARGE),
    ],
)  # fmt: skip
def test_a_form_that_is_refused_leaves_nothing(small: Served, body: bytes, status: int, message: str) -> None:
    """Each is sent twice: with its length told before, and without."""
    parts = iter([body[:5000], body[5000:]])
    url, kind = f"{small.url}/v1/files", {"Content-Type": "multipart/form-data; boundary=x"}
    for content in (body, parts):
        answer = httpx.post(url, content=content, headers=kind, timeout=20)
        assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)
        assert (kept(small), small.service.uploads._bytes) == ([], 0)


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data", f"multipart/form-data; boundary={'x' * 300}"]
)
def test_only_forms_are_taken(small: Served, kind: str) -> None:
    assert sent(small, HEAD + b"a\r\n--x--", kind).status_code == 400


def test_the_largest_upload_is_taken(small: Served) -> None:
    answer = sent(small, HEAD + b"a" * MOST + b"\r\n--x--")
    assert (answer.status_code, answer.json()["bytes"]) == (200, MOST)
    small.service.uploads.delete(answer.json()["id"])


def test_a_client_that_leaves_in_the_middle_leaves_nothing(small: Served) -> None:
    with socket.create_connection(("127.0.0.1", int(small.url.rpartition(":")[2]))) as client:
        head = "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n"
        client.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode() + HEAD + b"a" * 100)
        until(lambda: bool(kept(small)))
    until(lambda: not kept(small))
    assert small.service.uploads._bytes == 0


def arrived(store: Uploads, body: bytes) -> str:
    arriving: ArrivingUpload = store.begin()
    arriving.write(body)
    return arriving.finish("a.mp4", "user_data").id


def test_the_least_recently_used_uploads_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Uploads(PrivateFolder(tmp_path / "clips"), 10)  # four of the largest, which is 40 bytes
    ids = [arrived(store, b"a" * 10) for _ in range(4)]
    assert store.find(ids[0])
    more = arrived(store, b"b" * 10)
    assert [store.find(id) is not None for id in (*ids, more)] == [True, False, True, True, True]
    with store.content(ids[2])[0].opened() as path:
        assert store.delete(ids[2])
        assert path.read_bytes() == b"a" * 10
        half = store.begin()
        half.write(b"c" * 5)
        monkeypatch.setattr(uploads, "_TIMES_LARGEST", 1)
        with pytest.raises(BusyError, match=r"^Uploads may take 10 bytes, which others take now\."):
            half.write(b"c")
        half.abandon()
    assert not path.exists()
    assert store._bytes == 0
    with pytest.raises(MediaError, match=r"^There is no upload"):
        store.content(ids[2])
    monkeypatch.setattr(uploads, "MOST_FILES", 2)
    ids = [arrived(store, b"a") for _ in range(3)]
    assert [store.find(id) is not None for id in ids] == [False, True, True]


_SERVER = """
import sys, time
from pathlib import Path
from vllava_cli.server.clips.private_folder import PrivateFolder
folder = PrivateFolder(Path(sys.argv[1]))
(folder.path / "clip").write_bytes(b"a")
print(folder.path, flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_a_killed_server_leaves_nothing_once_another_one_starts(tmp_path: Path) -> None:
    within = tmp_path / "clips"
    command = [sys.executable, "-c", _SERVER, str(within)]
    ended = Path(subprocess.run([*command, "0"], stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    assert [*within.iterdir()] == []
    with subprocess.Popen([*command, "60"], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        place = Path(server.stdout.readline().strip())
        PrivateFolder(within).sweep()
        assert (place / "clip").exists()
        server.kill()
    assert (place / "clip").exists()
    with_new = PrivateFolder(within)
    assert place not in (folder := with_new.path).parent.iterdir()
    assert not ended.exists()
    with_new.close()
    assert (folder.exists(), [*within.iterdir()]) == (False, [])


def test_a_folder_that_others_could_have_made_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir(mode=0o700)
    (tmp_path / "own/x.lock").touch()
    (tmp_path / "link").symlink_to(tmp_path / "own")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    for name in ("link", "open", "file", "nowhere"):
        folder = PrivateFolder(tmp_path / name)
        place = folder.path.parent
        assert place.parent != tmp_path and place.stat().st_mode & 0o777 == 0o700
        folder.close()
        assert not place.exists()
    assert not (tmp_path / "none").exists()
    assert (tmp_path / "own/x.lock").exists()


def test_a_folder_that_a_cleaner_removed_is_made_again(tmp_path: Path) -> None:
    """Systems remove temporary files that are days old, and a server stays for longer."""
    folder = PrivateFolder(tmp_path / "clips")
    first = folder.path
    shutil.rmtree(tmp_path / "clips")
    with folder.file(b"clip") as path:
        assert path.read_bytes() == b"clip"
    assert folder.path != first
    folder.close()
    assert [*(tmp_path / "clips").iterdir()] == []
