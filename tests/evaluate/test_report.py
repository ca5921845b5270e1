"""The page of `vllava report` as a file: what it says, what it holds of each clip, and that nothing in it is alive."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import re
import signal
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.commands.shell import environment_of
from tests.evaluate.judging import row, write
from tests.evaluate.reported import BLUE, HOSTILE, IMAGE, RED, RED_TIMES_S, asked, made_with, report, rows
from tests.waiting import wait_for
from vllava_cli.errors import OutputError, UsageError
from vllava_cli.evaluate.report_sections import Shot
from vllava_cli.evaluate.report_sheets import SheetFolder
from vllava_cli.nouns import DecodeLimits, Framing
from vllava_cli.screen import Screen

VOID = {"meta", "link", "img", "input", "rect"}


class Reading(HTMLParser):
    """A page as a browser reads it: its elements with their attributes, and the text outside of style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.inner: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            self.inner[self.open[-1]] = self.inner.get(self.open[-1], "") + data
        else:
            self.text += data

    @property
    def pictures(self) -> list[Image.Image]:
        """The sheets, in the order of the page."""
        sources = [str(attributes["src"]) for tag, attributes in self.elements if tag == "img"]
        return [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) for source in sources]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Reading:
    folder = tmp_path_factory.mktemp("report")
    file, out, err = report(folder, rows(folder / "gone.mp4"))
    assert out == f"{file}\n"
    assert err == f"vllava: 1 of 4 clips can't be shown, first {folder}/gone.mp4: The clip isn't here any more.\n"
    assert sorted(path.name for path in folder.iterdir()) == ["report.html", "rows.jsonl"]
    return Reading(file.read_text(encoding="utf-8"))


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize(
    "sentence",
    [
        "7 answers about 4 clips Right 2 Wrong 1 Differs 1 No right answer 2 Error 1",
        "Errors: missing 1. 2 of the 4 answers whose right answer is known are right: 50.0%.",
        "Modeldemo Devicecpu Fitcrop Samplingthe likeliest of the choices Versionstorch 2.13.0 Made byvllava",
        "red-circle-moves-left.mp4 What colour is the circle? red Right red0.900answer, right blue0.100 type: colour",
        "Where does it go? left Wrong Right answer: right left0.600answer right0.400right type: motion",
        "A <b>red</b> circle. type: open",
        "blue-star-grows.mp4 00:00:00.500-00:00:01 Growing What is it? A blue star. Right type: open",
        "How many shapes are there? Three. Differs Right answer: two",
        "Is there a circle? No. type: count",
        "The clip isn't here any more. What is there? Error: missing It failed.",
    ],
)
def test_the_page_says(page: Reading, sentence: str) -> None:
    assert sentence in words(page.text)


def test_texts_of_rows_are_inert_and_visible(page: Reading) -> None:
    shown = HOSTILE.replace("\u202e", r"\u202e").replace("\x1b", r"\x1b")
    assert words(shown) in words(page.text)
    assert page.open == []
    assert [tag for tag, _ in page.elements if tag in ("script", "style")] == ["style", "script"]
    attributes = {name for _, found in page.elements for name in found}
    assert not {name for name in attributes if name == "style" or name.startswith("on")}


def test_nothing_is_loaded_from_elsewhere(page: Reading) -> None:
    links = [found[name] for _, found in page.elements for name in ("src", "href", "action", "srcset") if name in found]
    assert {str(link).partition(",")[0] for link in links} == {"data:", "data:image/webp;base64"}
    assert not re.search(r"url\(|@import|https?:", page.inner["style"] + page.inner["script"])
    (policy,) = (found["content"] for _, found in page.elements if found.get("http-equiv"))
    digests = [
        base64.b64encode(hashlib.sha256(page.inner[name].encode()).digest()).decode() for name in ("style", "script")
    ]
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; script-src 'sha256-{digests[1]}'; "
        "base-uri 'none'; form-action 'none'"
    )


def tiles(picture: Image.Image, side: int = 160) -> list[np.ndarray[Any, Any]]:
    """Cuts a sheet of four squares a row at the places where they are drawn."""
    corners = [(14 + column * (side + 14), 14 + line * (side + 44)) for line in range(2) for column in range(4)]
    boxes = [picture.convert("RGB").crop((x, y, x + side, y + side)) for x, y in corners]
    return [np.asarray(box, dtype=float) for box in boxes]


def squares(clip: Path, times_s: tuple[float, ...], side: int = 160) -> list[np.ndarray[Any, Any]]:
    """Decodes the whole clip and takes the middle square of the frames at these times."""
    with av.open(str(clip)) as container:
        frames = [(frame.time, frame.to_image()) for frame in container.decode(video=0)]
    found = [min(frames, key=lambda frame: abs((frame[0] or 0.0) - time_s))[1] for time_s in times_s]
    edge = min(found[0].size)
    left, top = ((length - edge) // 2 for length in found[0].size)
    return [np.asarray(image.crop((left, top, left + edge, top + edge)).resize((side, side)), float) for image in found]


def test_a_sheet_shows_the_frames_that_the_model_saw(page: Reading) -> None:
    red, star, image = page.pictures
    assert (red.format, red.size, image.size) == ("WEBP", (710, 422), (188, 188))
    for shown, expected in zip(tiles(red), squares(RED, RED_TIMES_S), strict=True):
        assert np.abs(shown - expected).mean() < 6
    part = [0.5 + each * 0.5 / 8 for each in range(8)]
    assert np.abs(tiles(star)[0] - squares(BLUE, (part[0],))[0]).mean() < 6
    assert np.abs(tiles(star)[0] - squares(BLUE, (0.0,))[0]).mean() > 1


def test_each_picture_is_described(page: Reading) -> None:
    (first, *_) = (found["alt"] for tag, found in page.elements if tag == "img")
    assert first.startswith(f"The frames that the model saw of {RED}, at 00:00:00.000, 00:00:00.291, 00:00:00.625, ")
    assert all(found["alt"] for tag, found in page.elements if tag == "img")


def test_clips_that_cannot_be_shown_have_a_note_in_their_place(tmp_path: Path) -> None:
    broken, changed = tmp_path / "broken.mp4", tmp_path / "changed.mp4"
    broken.write_bytes(b"no video")
    changed.write_bytes(RED.read_bytes())
    found = [
        asked(broken, "What?"),
        asked(changed, "What?", clip_state={"bytes": 1, "mtime_ns": 2}),
        row("https://elsewhere.example/a.mp4", "What?", made_with=made_with()),
        row("-", "What?", made_with=made_with()),
        asked(RED, "Too late?", made_with=made_with(start_s=9.0, end_s=10.0)),
        asked(RED, "As an older vllava wrote it?", made_with=None),
        asked(RED, "Damaged?", made_with={"fit": "none"}),
    ]
    file, _, err = report(tmp_path, found)
    text = words(Reading(file.read_text(encoding="utf-8")).text)
    assert "The clip is at a URL; a report fetches nothing." in text
    assert "The clip came from stdin and isn't kept." in text
    assert "broken.mp4' is neither a video nor an image" in text
    assert text.count("The file has changed after the answers were made") == 1
    assert text.count("The rows don't say which frames the model saw: these are the usual ones.") == 1
    assert len(Reading(file.read_text(encoding="utf-8")).pictures) == 2
    first, second = err.splitlines()
    assert first.startswith(f"vllava: 4 of 6 clips can't be shown, first {broken}: ")
    assert second == "vllava: 1 clip changed after the rows were made; the page says which."


def test_an_error_joins_the_answers_about_the_same_part(tmp_path: Path) -> None:
    part = {"start_s": 0.5, "end_s": 1.0}
    found = [
        asked(BLUE, "First?", error="context", made_with=None, **part),
        asked(BLUE, "Second?", made_with=made_with(**part), **part),
        asked(BLUE, "Third?"),
    ]
    page = Reading(report(tmp_path, found)[0].read_text(encoding="utf-8"))
    assert len(page.pictures) == 2
    assert re.findall(r"(First|Second|Third)\?", page.text) == ["Second", "First", "Third"]


def test_an_interrupted_report_goes_on(tmp_path: Path) -> None:
    sheets, screen = SheetFolder.beside(tmp_path / "a.html", 2), Screen(err=io.StringIO())
    shots = [Shot(path=str(path), framing=Framing(), model="demo") for path in (RED, BLUE)]
    sheets.make(shots, screen, decoders=1, limits=DecodeLimits())
    files = [sheets.file(shot) for shot in shots]
    before = files[0].stat()
    files[1].write_bytes(b"")  # as a power cut leaves it
    (sheets.folder / f"{files[1].name}.part").write_bytes(b"torn")
    SheetFolder.beside(tmp_path / "a.html", 2).make(shots, screen, decoders=1, limits=DecodeLimits())
    assert (files[0].stat().st_ino, files[0].stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert files[1].read_bytes().startswith(b"RIFF")
    assert sorted(sheets.folder.iterdir()) == sorted(files)
    (sheets.folder / "mine.txt").write_text("not a sheet")
    sheets.remove()
    assert [path.name for path in sheets.folder.iterdir()] == ["mine.txt"]


def test_ctrl_c_keeps_the_sheets_that_are_made(tmp_path: Path) -> None:
    clips = [tmp_path / f"{number}.mp4" for number in range(300)]
    for clip in clips:
        clip.write_bytes(RED.read_bytes())
    write(tmp_path / "rows.jsonl", [asked(clip, "What?") for clip in clips])
    command = [sys.executable, "-m", "vllava_cli", "report", "rows.jsonl"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment_of(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    folder = tmp_path / "report.html.sheets"
    assert wait_for(lambda: any(folder.glob("*.webp")))
    process.send_signal(signal.SIGINT)
    message = "vllava: Interrupted. The same command goes on with the sheets in 'report.html.sheets'.\n"
    assert (*process.communicate(timeout=60), process.returncode) == ("", message, 130)
    assert any(folder.glob("*.webp"))
    assert not (tmp_path / "report.html").exists()


def test_a_sheet_belongs_to_one_state_of_a_file_and_one_framing(tmp_path: Path) -> None:
    clip = tmp_path / "a.mp4"
    clip.write_bytes(RED.read_bytes())
    shot = Shot(path=str(clip), framing=Framing(), model="demo")
    names = {SheetFolder.beside(tmp_path / "a.html", 2).file(shot) for _ in range(2)}
    names.add(SheetFolder.beside(tmp_path / "a.html", 10_000).file(shot))
    names.add(
        SheetFolder.beside(tmp_path / "a.html", 2).file(Shot(path=str(clip), framing=Framing(shift=0.5), model="demo"))
    )
    os.utime(clip, ns=(1, 1))
    names.add(SheetFolder.beside(tmp_path / "a.html", 2).file(shot))
    assert len(names) == 4


def test_the_more_clips_the_fewer_bytes_each_has(tmp_path: Path) -> None:
    found = [SheetFolder.beside(tmp_path / "a.html", count).most_bytes for count in (1, 500, 1000, 100_000)]
    assert found == [48_000, 48_000, 24_000, 6_000]


def test_a_page_is_not_overwritten_unasked(tmp_path: Path) -> None:
    found = [asked(IMAGE, "What?")]
    page = tmp_path / "report.html"
    page.write_text("mine")
    with pytest.raises(OutputError, match=r"is already there. Give --overwrite to replace it"):
        report(tmp_path, found)
    assert page.read_text() == "mine"
    report(tmp_path, found, is_overwriting=True)
    assert page.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("name", ["report.pdf", "-"])
def test_another_ending_than_html_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"the page is HTML\. Give a name that ends with \.html\.$"):
        report(tmp_path, [asked(IMAGE, "What?")], output=tmp_path / name)
    assert not (tmp_path / name).exists()


def test_where_all_clips_are_gone_the_folder_may_be_another_one(tmp_path: Path) -> None:
    assert report(tmp_path, [asked(Path("gone.mp4"), "What?")])[2] == (
        "vllava: 1 of 1 clip can't be shown, first gone.mp4: The clip isn't here any more. "
        "Run it in the folder from which batch was run: relative paths begin there.\n"
    )


def test_no_row_and_no_jinja_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"has no row. Give the rows of vllava batch."):
        report(tmp_path, [])
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"needs Jinja2, which isn't installed: pip install 'vllava\[evaluate\]'"):
        report(tmp_path, [asked(IMAGE, "What?")])
