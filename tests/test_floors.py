"""The floors of the house: imports run downward, heavy libraries stay where they belong, only cli makes a Screen."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "vllava_cli"
MODULES = {path.relative_to(PACKAGE.parent).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}

FLOORS = (
    ("__init__", "errors", "nouns", "interrupt", "imports", "demo"),
    ("machine", "answers", "memory", "prompt", "choices", "times", "cpu_time", "hardware", "plan"),
    ("storage", "media", "cues"),
    ("engine",),
    ("client",),
    ("screen", "commands"),
    ("batch",),
    ("evaluate",),
    ("search",),
    ("server",),
    ("options", "usage"),
    ("search_options", "serve_options", "evaluate_options"),
    ("cli",),
    ("__main__",),
)
HEAVY = {
    "torch": {"engine", "media/pixels", "hardware"},
    "transformers": {"engine", "media/pixels"},
    "huggingface_hub": {"engine/hub", "engine/hub_download"},
    "av": {"media"},
    "PIL": {"media", "commands/bar_chart"},
    "rich": {"screen"},
    "typer": {"cli", "options", "search_options", "serve_options", "evaluate_options", "usage"},
    "starlette": {"server"},
    "uvicorn": {"server"},
    "prometheus_client": {"server"},
    "python_multipart": {"server"},
    "prompt_toolkit": {"commands/chat"},
    "platformdirs": {"storage/session_file", "engine/weight_cache"},
    "ray": {"batch/executors"},
    "pyarrow": {"batch/executors", "batch/rows", "batch/job_readers", "evaluate"},
    "sklearn": {"evaluate"},
    "scipy": {"evaluate"},
    "matplotlib": {"evaluate"},
    "jinja2": {"evaluate"},
    "fsspec": {"storage/objects", "media/remote"},
    "aiohttp": {"media/remote"},
    "s3fs": {"media/remote"},
    "gcsfs": {"media/remote"},
}


def room(module: str) -> str:
    """vllava_cli/engine/generate.py → engine."""
    inner = module.removeprefix("vllava_cli/").removesuffix(".py")
    return inner.split("/")[0]


def floor(name: str) -> int:
    for number, rooms in enumerate(FLOORS):
        if name in rooms:
            return number
    raise AssertionError(f"{name} stands on no floor: give it one in FLOORS")


def imports(path: Path) -> list[str]:
    """Every imported module, wherever in the file: "vllava_cli.engine.hub", "torch"."""
    found: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "vllava_cli" else []
            found.append(node.module)
    return found


def typing_only(path: Path) -> set[str]:
    """Imports that stand under `if TYPE_CHECKING`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    inner = [node for block in blocks for node in ast.walk(block) if isinstance(node, ast.ImportFrom)]
    return {node.module for node in inner if node.module} | {
        alias.name
        for block in blocks
        for node in ast.walk(block)
        if isinstance(node, ast.Import)
        for alias in node.names
    }


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module: str) -> None:
    own = room(module)
    for name in imports(MODULES[module]):
        parts = name.split(".")
        if parts[0] != "vllava_cli" or len(parts) == 1 or parts[1].startswith("__"):
            continue
        other = parts[1]
        is_inside = other == own and own in (
            "storage",
            "media",
            "engine",
            "client",
            "demo",
            "commands",
            "batch",
            "evaluate",
            "search",
            "server",
        )
        is_sideways_ok = {own, other} == {"commands", "screen"} and other == "screen"
        is_on_same_floor = floor(own) == floor(other) in (1, 2)
        is_downward = is_on_same_floor or floor(other) < floor(own)
        assert is_inside or is_sideways_ok or is_downward, f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_commands_do_not_import_each_other(module: str) -> None:
    if room(module) != "commands":
        return
    names = ("ask", "probe", "frames", "chat", "batch", "merge", "bench", "doctor", "demo", "replay")
    own = module.removesuffix(".py").split("/")[2]
    siblings = tuple(f"vllava_cli.commands.{name}" for name in names if name != own)
    assert not [name for name in imports(MODULES[module]) if f"{name}.".startswith(tuple(f"{s}." for s in siblings))]


@pytest.mark.parametrize("library", HEAVY)
def test_heavy_libraries_stay_where_they_belong(library: str) -> None:
    for module, path in MODULES.items():
        inner = module.removeprefix("vllava_cli/").removesuffix(".py")
        is_allowed = any(inner == place or inner.startswith(f"{place}/") for place in HEAVY[library])
        roots = {name.split(".")[0] for name in imports(path)} - {name.split(".")[0] for name in typing_only(path)}
        assert is_allowed or library not in roots, f"{module} imports {library}"


def test_only_the_command_line_makes_a_screen() -> None:
    makers = [module for module, path in MODULES.items() if "Screen(" in path.read_text(encoding="utf-8")]
    assert [maker for maker in makers if maker != "vllava_cli/screen.py"] == ["vllava_cli/cli.py"]


def test_the_package_itself_imports_nothing() -> None:
    assert imports(PACKAGE / "__init__.py") == []


def test_no_test_module_imports_another() -> None:
    """What two of them need stands in a module of its own: a change to one test can't break another."""
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        others = [name for name in imports(path) if name.startswith("tests.") and ".test_" in name]
        assert not others, f"{path.name} imports {others}"


def test_the_tree_of_the_house_is_todays() -> None:
    done = subprocess.run(
        [sys.executable, PACKAGE.parent / "scripts" / "house", "--check"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
