"""Where something was measured: what a figure means nothing without."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from vllava_cli import __version__
from vllava_cli.hardware import cpu_facts

_SETTINGS = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MKL_NUM_THREADS")
"""What the processes that are measured inherit, and what changes their speed."""
_PACKAGES = ("torch", "transformers", "av", "numpy")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The processor, how much of it was ours, and the versions of what ran."""

    cpu: str
    cores: int
    """Logical ones that this process may use."""
    load: float
    """Processes that ran or waited in the minute before: another's work makes figures worse."""
    system: str
    versions: dict[str, str]
    settings: dict[str, str]
    """Of the environment, where they are set."""

    def __str__(self) -> str:
        """ "2 cores of an AMD EPYC, load 0.1 before, Linux 6.18; Python 3.11.7, torch 2.13.0, …"."""
        said = [f"{name} {number}" for name, number in self.versions.items()]
        said += [f"{name}={value}" for name, value in self.settings.items()]
        return f"{self.cores} cores of {self.cpu}, load {self.load:.1f} before, {self.system}; {', '.join(said)}"

    def facts(self) -> dict[str, object]:
        return asdict(self)


def machine() -> Machine:
    """This one."""
    versions = {"vllava": __version__, "Python": platform.python_version()}
    return Machine(
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        load=os.getloadavg()[0],
        system=f"{platform.system()} {platform.release()}",
        versions=versions | {name: version(name) for name in _PACKAGES},
        settings={name: os.environ[name] for name in _SETTINGS if name in os.environ},
    )


def _cpu_name() -> str:
    try:
        name, _ = cpu_facts(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        name = None
    return name or platform.processor() or platform.machine()
