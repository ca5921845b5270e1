"""The package as a user gets it: sdist → wheel → a clean environment far from the checkout, where the demo answers."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from vllava_cli.demo import benchmark_files

REPOSITORY = Path(__file__).parents[1]
LIBRARY = "vllava_cli/engine/cpu/libproducts.so"
WHEEL_LIMIT_BYTES = 9_000_000
DEMO_LIMIT_BYTES = 8_000_000


def run(*command: str | Path, folder: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), **settings}
    keep = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONFIG_FILE", "SSL_CERT_FILE", "HTTPS_PROXY")
    environment |= {name: os.environ[name] for name in keep if name in os.environ}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel made from it."""
    out = tmp_path_factory.mktemp("dist")
    done = run(sys.executable, "-m", "build", "--outdir", out, REPOSITORY, folder=out)
    assert done.returncode == 0, done.stdout + done.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def environment(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with nothing in it but the wheel and what that needs; its bin folder."""
    folder = tmp_path_factory.mktemp("clean")
    bin_folder = folder / "venv" / "bin"
    for command in (
        (sys.executable, "-m", "venv", folder / "venv"),
        (bin_folder / "python", "-m", "pip", "install", "-q", "-c", REPOSITORY / "constraints.txt", built[1]),
    ):
        done = run(*command, folder=folder)
        assert done.returncode == 0, done.stdout + done.stderr
    return bin_folder


def test_the_sdist_holds_what_the_wheel_needs(built: tuple[Path, Path]) -> None:
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"hatch_build.py", "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml", "man/vllava.1"} <= names
    assert not any(name.startswith(("tests/", ".venv/", "training/")) for name in names)


def test_the_wheel_carries_the_model_the_clips_and_the_man_pages(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = {info.filename: info.compress_size for info in archive.infolist()}
    assert "vllava_cli/demo/checkpoint/model.safetensors" in names
    assert "vllava_cli/demo/clips/red-circle-moves-left.mp4" in names
    assert {f"vllava_cli/demo/benchmark/{name.as_posix()}" for name in benchmark_files()} <= set(names)
    assert "vllava_cli/py.typed" in names
    pages = {name.rpartition("/")[2] for name in names if "/share/man/man1/" in name}
    assert pages == {page.name for page in (REPOSITORY / "man").glob("*.1")}
    assert sum(size for name, size in names.items() if name.startswith("vllava_cli/demo/")) <= DEMO_LIMIT_BYTES
    assert built[1].stat().st_size <= WHEEL_LIMIT_BYTES


def test_the_wheel_carries_compiled_products_where_a_compiler_is(built: tuple[Path, Path]) -> None:
    has_compiler = sys.platform == "linux" and platform.machine() == "x86_64" and shutil.which("cc")
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
    assert (LIBRARY in names) == bool(has_compiler)
    assert ("py3-none-linux_x86_64" in built[1].name) == bool(has_compiler)


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_compiler_the_wheel_is_for_any_machine(
    compiler: str, built: tuple[Path, Path], tmp_path: Path
) -> None:
    """And has no library that was compiled before, as a checkout may."""
    with tarfile.open(built[0]) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    (source / LIBRARY).write_bytes(b"an old one")
    made = run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, source, folder=tmp_path, CC=compiler)
    assert made.returncode == 0, made.stdout + made.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "torch's products are used" in made.stdout + made.stderr
    with zipfile.ZipFile(wheel) as archive:
        assert LIBRARY not in archive.namelist()
        assert "vllava_cli/engine/cpu/products.c" in archive.namelist()


def test_the_demo_answers_outside_the_checkout(environment: Path) -> None:
    folder = environment.parent.parent
    paths = run(environment / "vllava", "demo", "--paths", folder=folder).stdout.splitlines()
    clip = next(path for path in paths if path.endswith("red-circle-moves-left.mp4"))
    assert clip.startswith(str(folder))
    question = "What happens in this video?"
    done = run(environment / "vllava", "ask", "--model", "demo", clip, question, folder=folder, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (0, "A red circle moves left.\n"), done.stderr


def test_the_man_pages_are_where_man_looks(environment: Path) -> None:
    assert (environment.parent / "share" / "man" / "man1" / "vllava-ask.1").exists()
