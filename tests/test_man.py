"""The man pages are those of today's command tree, and a man reader takes them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from vllava_cli.cli import app
from vllava_cli.commands.probe import KEYS

REPOSITORY = Path(__file__).parents[1]
PAGES = sorted((REPOSITORY / "man").glob("*.1"))
ROOT: Any = typer.main.get_command(app)


def test_the_pages_are_up_to_date() -> None:
    done = subprocess.run([sys.executable, REPOSITORY / "scripts" / "man", "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_command_has_a_page() -> None:
    assert {page.name for page in PAGES} == {"vllava.1", *(f"vllava-{name}.1" for name in ROOT.commands)}


def test_every_command_has_an_example() -> None:
    shown = {page.name: re.findall(r"^\.SH EXAMPLES\n(.)", page.read_text(), re.MULTILINE) for page in PAGES}
    assert [name for name, first in shown.items() if not first] == ["vllava-help.1"]
    assert [name for name, first in shown.items() if "." in first] == []


def test_the_page_of_probe_names_each_key_that_it_prints() -> None:
    words = re.split(r"\W+", (REPOSITORY / "man" / "vllava-probe.1").read_text())
    assert [key for key in KEYS if key not in words] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_groff_and_mandoc_do_not_complain(page: Path) -> None:
    readers = {"groff": ["groff", "-man", "-ww", "-Tutf8"], "mandoc": ["mandoc", "-T", "lint", "-W", "warning"]}
    found = [command for name, command in readers.items() if shutil.which(name)]
    if not found:
        pytest.skip("neither groff nor mandoc is installed")
    for command in found:
        done = subprocess.run([*command, page], capture_output=True, text=True)
        complaints = done.stderr if command[0] == "groff" else done.stdout
        assert complaints == ""
