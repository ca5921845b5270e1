"""What control groups (v1 and v2) and `ulimit -v` leave of a machine: containers, services and batch systems set them.

Elsewhere there are no such files, and nothing is limited. `root` is the top of the file tree, so that tests hand one.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

ROOT = Path("/")


def limited_ram(total_bytes: int, free_bytes: int, *, root: Path = ROOT) -> tuple[int, int]:
    """RAM (total, free) as limits leave it: a container of 4 GiB on a machine of 64 has 4.

    Every group up to the root can have a limit. Memory that only caches files counts as free. Address space that this
    process has taken already, libraries included, doesn't.
    """
    limit_bytes = _address_space_bytes()
    if limit_bytes is not None:
        total_bytes = min(total_bytes, limit_bytes)
        pages = contents(root / "proc/self/statm").split()
        taken_bytes = int(pages[0]) * os.sysconf("SC_PAGE_SIZE") if pages else 0
        free_bytes = max(0, min(free_bytes, limit_bytes - taken_bytes))
    for folder in _groups("memory", root):
        limit_bytes = _number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used_bytes = _number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit_bytes is not None:
            total_bytes = min(total_bytes, limit_bytes)
            unused_bytes = limit_bytes - (used_bytes or 0) + _file_cache_bytes(folder)
            free_bytes = max(0, min(free_bytes, unused_bytes))
    return total_bytes, min(free_bytes, total_bytes)


def _address_space_bytes() -> int | None:
    """What `ulimit -v` allows this process; None without a limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def core_quota(*, root: Path = ROOT) -> int | None:
    """Whole cores that the control groups allow, at least 1; None without a limit. "150000 100000" → 1."""
    quotas = []
    for folder in _groups("cpu", root):
        words = contents(folder / "cpu.max").split()
        if not words:
            words = [contents(folder / "cpu.cfs_quota_us").strip(), contents(folder / "cpu.cfs_period_us").strip()]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            quotas.append(max(1, int(words[0]) // int(words[1])))
    return min(quotas, default=None)


def contents(path: Path) -> str:
    """A file of /proc or /sys; empty for what is not there or must not be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _groups(controller: str, root: Path) -> list[Path]:
    """The folders of this process's control group and its parents, innermost first, under cgroup v1 or v2.

    "5:memory:/a/b" → memory/a/b, memory/a, memory; "0::/a" → a, . A container may not see the inner ones.
    """
    folders = []
    for line in contents(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / (controller if controllers else "")
        inner = top / path.strip("/")
        folders += [folder for folder in (inner, *inner.parents) if folder.is_relative_to(top)]
    return folders


def _file_cache_bytes(folder: Path) -> int:
    found = re.search(r"^(?:total_)?inactive_file (\d+)$", contents(folder / "memory.stat"), re.MULTILINE)
    return int(found[1]) if found else 0


def _number(*paths: Path) -> int | None:
    """The number in the first of these files that exists; None for "max"."""
    texts = (contents(path).strip() for path in paths)
    return next((int(text) for text in texts if text.isdigit()), None)
