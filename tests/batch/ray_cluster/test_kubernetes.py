"""The files for Slurm and Kubernetes in docs/: fields, names, and the commands in them."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from vllava_cli.cli import app

jsonschema = pytest.importorskip("jsonschema")
yaml = pytest.importorskip("yaml")

DOCS = Path(__file__).parents[3] / "docs"
MANIFESTS = sorted((DOCS / "kuberay").glob("*.yaml"))
SCRIPTS = sorted((DOCS / "slurm").glob("*.sbatch"))
SCHEMA = yaml.safe_load((Path(__file__).parent / "kuberay.schema.yaml").read_text())


def faults(manifest: Any) -> list[str]:
    """What the schema has against it."""
    return [error.message for error in jsonschema.Draft202012Validator(SCHEMA).iter_errors(manifest)]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def pods(manifest: Any) -> Iterator[Any]:
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        yield group["template"]["spec"]


def parsed(command: str) -> None:
    """Raises for an option that isn't there."""
    words = shlex.split(command)
    assert words[0] == "vllava"
    group: Any = typer.main.get_command(app)
    name, *rest = words[1:]
    group.commands[name].make_context(name, rest)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_a_manifest_has_only_fields_that_there_are(path: Path) -> None:
    assert faults(read(path)) == []


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_what_is_mounted_is_a_volume_and_every_volume_is_mounted(path: Path) -> None:
    for pod in pods(read(path)):
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        mounted = {mount["name"] for each in pod["containers"] for mount in each.get("volumeMounts", ())}
        assert mounted == volumes


def test_the_command_of_a_job_is_one() -> None:
    assert [path.name for path in MANIFESTS] == ["raycluster.yaml", "rayjob.yaml"]
    parsed(read(DOCS / "kuberay" / "rayjob.yaml")["spec"]["entrypoint"])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_for_slurm_is_one_and_so_are_its_commands(path: Path) -> None:
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-n", path], check=True)
    whole = path.read_text().replace("\\\n", " ")
    commands = [
        line.removeprefix("exec ") for line in whole.splitlines() if line.removeprefix("exec ").startswith("vll")
    ]
    assert commands
    for command in commands:
        parsed(command.replace("$SLURM_ARRAY_TASK_ID", "1").replace("$SLURM_ARRAY_TASK_COUNT", "2").replace("$", ""))
