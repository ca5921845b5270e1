"""The names of a jobs file lead to the clips in a folder, whatever benchmark wrote them."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllava_cli.batch.job_files import ClipNames

CLIPS = (
    *("vid1305.avi", "video7010.mp4", "v_1QIUV7WYKXg.mkv", "tumblr_n1_400.gif", "-4wsuPCjDBc_5_15.avi", "12.mp4"),
    *(
        "both.jpg",
        "both.gif",
        "both.webm",
        "both.avi",
        "LOUD.MP4",
        "a.b.mp4",
        "plain",
        "inner/v_deep.mp4",
        "v_both.mp4",
    ),
    *("photo.png", "plain.mp4", "text.txt", "vid12.avi"),
)


@pytest.fixture(autouse=True)
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for clip in CLIPS:
        (tmp_path / "clips" / clip).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / clip).touch()


FOUND = [
    ("plain", "clips/plain"),
    ("both.jpg", "clips/both.jpg"),
    ("both", "clips/both.avi"),
    ("vid1305", "clips/vid1305.avi"),
    ("tumblr_n1_400", "clips/tumblr_n1_400.gif"),
    ("-4wsuPCjDBc_5_15", "clips/-4wsuPCjDBc_5_15.avi"),
    ("LOUD", "clips/LOUD.MP4"),
    ("a.b", "clips/a.b.mp4"),
    ("inner/v_deep", "clips/inner/v_deep.mp4"),
    ("../clips/plain", "clips/../clips/plain"),
]
OF_BENCHMARKS = [
    ("1QIUV7WYKXg", "clips/v_1QIUV7WYKXg.mkv"),
    ("1305", "clips/vid1305.avi"),
    ("7010", "clips/video7010.mp4"),
    ("inner/deep", "clips/inner/v_deep.mp4"),
]
MISSING = ["gone", "gone.mp4", "photo", "text", "nowhere/a", "..", "", "inner/", "loud", "²"]


@pytest.mark.parametrize("is_of_benchmark", [False, True])
@pytest.mark.parametrize(("name", "path"), [*FOUND, ("12", "clips/12.mp4")])
def test_a_name_is_the_file_itself_or_one_with_an_ending(name: str, path: str, is_of_benchmark: bool) -> None:
    assert ClipNames("clips").path(name, is_of_benchmark=is_of_benchmark) == path


@pytest.mark.parametrize(("name", "path"), OF_BENCHMARKS)
def test_a_benchmark_has_forms_of_its_own(name: str, path: str) -> None:
    names = ClipNames("clips")
    assert names.path(name, is_of_benchmark=True) == path
    assert names.path(name) == f"clips/{name}"


@pytest.mark.parametrize("is_of_benchmark", [False, True])
@pytest.mark.parametrize("name", MISSING)
def test_what_is_not_there_is_a_path_all_the_same(name: str, is_of_benchmark: bool) -> None:
    assert ClipNames("clips").path(name, is_of_benchmark=is_of_benchmark) == f"clips/{name}"
    assert ClipNames("gone").path(name, is_of_benchmark=is_of_benchmark) == f"gone/{name}"


def test_absolute_names_and_those_of_the_current_folder_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    both = str(Path("clips/both").absolute())
    assert ClipNames("clips").path(both, is_of_benchmark=True) == both
    monkeypatch.chdir("clips")
    names = ClipNames("")
    assert [names.path(name) for name in ("both", "gone", "inner/v_deep")] == ["both.avi", "gone", "inner/v_deep.mp4"]


def test_a_folder_is_listed_once() -> None:
    names = ClipNames("clips")
    names.path("plain")
    Path("clips/new.mp4").touch()
    assert names.path("new") == "clips/new"
    assert ClipNames("clips").path("new") == "clips/new.mp4"


def test_of_clips_that_differ_in_case_alone_it_is_always_the_same() -> None:
    for name in ("x.Mp4", "x.mP4", "x.MP4"):
        Path("clips", name).touch()
    if len(list(Path("clips").glob("x.*"))) == 3:
        assert ClipNames("clips").path("x") == "clips/x.MP4"
