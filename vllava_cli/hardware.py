"""probe() -> Hardware: the processors and the memory that this process may use. A broken GPU raises no error.

Facts come from torch (GPUs), from psutil (RAM, and cores outside Linux), from /proc and /sys. Containers, services and
batch systems set limits by control groups (v1 and v2) and by `ulimit -v`; no other limit is read. `root` is the top of
the file tree: tests give a folder of their own.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

from vllava_cli.machine import Hardware, Processor

ROOT = Path("/")
FLASH_ATTN_FLOOR = (2, 3, 3)
"""transformers' own floor for flash_attention_2."""

BITSANDBYTES_FLOOR = (0, 50) if sys.platform == "darwin" else (0, 46, 1)
"""transformers' own floor; 0.50 is the first that needs no kernels from the hub on Apple's GPUs."""


def probe() -> Hardware:
    """Reads the hardware of this machine. Imports torch, which takes seconds."""
    import psutil
    import torch

    ram = psutil.virtual_memory()
    accelerators, faults = find_accelerators(torch, ram_free_bytes=ram.available)
    total_bytes, free_bytes = limited_ram(ram.total, ram.available)
    cpu_name, has_bf16 = cpu_facts(contents(ROOT / "proc/cpuinfo"))
    if sys.platform == "win32":  # torch's own check is private and may go away
        has_bf16 = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    has_gpu_for_flash = any(gpu.kind in ("cuda", "rocm") for gpu in accelerators)
    return Hardware(
        accelerators=accelerators,
        faults=faults,
        cpu_name=cpu_name or _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine() or "CPU",
        cpu_cores=cpu_cores(),
        ram_total_bytes=total_bytes,
        ram_free_bytes=free_bytes,
        has_cpu_bf16=has_bf16 or _sysctl("hw.optional.arm.FEAT_BF16") == "1",
        has_bitsandbytes=is_installed("bitsandbytes", "bitsandbytes", BITSANDBYTES_FLOOR),
        has_flash_attn=has_gpu_for_flash and is_installed("flash_attn", "flash-attn", FLASH_ATTN_FLOOR),
    )


def free_ram_bytes() -> int:
    """Returns the RAM that this process may still use."""
    import psutil

    ram = psutil.virtual_memory()
    return limited_ram(ram.total, ram.available)[1]


def cpu_cores() -> int:
    """Counts the physical cores that this process may use, without torch. On Linux, affinity and quota limit them."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if sys.platform == "linux":
        cores = physical_cores(os.sched_getaffinity(0))
    return min(cores, core_quota() or cores)


def find_accelerators(
    torch: Any, *, ram_free_bytes: int, root: Path = ROOT
) -> tuple[tuple[Processor, ...], tuple[str, ...]]:
    """Finds the GPUs that torch can compute on, and a sentence for each GPU that it can't use.

    If torch finds no GPU, gives torch's warnings about CUDA or, without any, a sentence on an unused NVIDIA driver.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = list(_gpus(torch, ram_free_bytes))
    faults = [each for each in found if isinstance(each, str)]
    if not found:
        messages = [str(each.message) for each in caught]
        faults = [_sentence(message) for message in messages if "CUDA" in message] or _unseen_gpu(torch, root)
    return tuple(each for each in found if isinstance(each, Processor)), tuple(dict.fromkeys(faults))


def has_kernels(capability: tuple[int, int], arch_list: Iterable[str]) -> bool:
    """Returns True if a build of torch has code for a GPU of this compute capability.

    Binary code (sm_) runs on GPUs of its own major version, from its minor version on; PTX (compute_) on all newer:
    (6, 1) in ["sm_75", "sm_80"] → False; (8, 9) in ["sm_86"] → True; (12, 0) in ["compute_90"] → True.
    """
    built = re.findall(r"\b(sm|compute)_(\d+)(\d)", " ".join(arch_list))
    versions = [(kind, (int(major), int(minor))) for kind, major, minor in built]
    return not versions or any(
        have <= capability and (kind == "compute" or have[0] == capability[0]) for kind, have in versions
    )


def physical_cores(logical: Iterable[int], *, root: Path = ROOT) -> int:
    """Counts the physical cores of these logical CPUs: {0, 1, 4} → 2 if 0 and 4 are in one core."""
    siblings = set()
    for cpu in logical:
        listed = contents(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").strip()
        siblings.add(listed or str(cpu))
    return max(1, len(siblings))


def cpu_facts(cpuinfo: str) -> tuple[str | None, bool]:
    """Reads a CPU's name, and whether it has bf16 instructions, from /proc/cpuinfo of x86 or Arm; Arm gives no name."""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    has_bf16 = not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags[1].split() if flags else ())
    return (name[1].strip() if name else None), has_bf16


def is_installed(module: str, distribution: str, floor: tuple[int, ...]) -> bool:
    """Returns True if a module is installed in at least this version; doesn't import it."""
    try:
        found = util.find_spec(module) is not None and metadata.version(distribution)
    except (ImportError, ValueError):  # no such distribution; a module without a spec
        return False
    return bool(found) and tuple(int(part) for part in re.findall(r"\d+", str(found))[:3]) >= floor


def _gpus(torch: Any, ram_free_bytes: int) -> Iterator[Processor | str]:
    """Yields each GPU, or a sentence that says why it can't be used."""
    if torch.cuda.is_available():  # torch calls AMD's GPUs cuda as well
        for index in range(torch.cuda.device_count()):
            yield _gpu(torch, "rocm" if torch.version.hip else "cuda", index)
    if hasattr(torch, "xpu") and torch.xpu.is_available():
        for index in range(torch.xpu.device_count()):
            yield _gpu(torch, "xpu", index)
    if torch.backends.mps.is_available():
        # Apple's GPU shares the RAM: it may use torch's recommended maximum, as far as so much RAM is free.
        total_bytes = torch.mps.recommended_max_memory()
        yield Processor(
            kind="mps",
            device="mps",
            name=f"{_sysctl('machdep.cpu.brand_string') or 'Apple'} GPU",
            total_bytes=total_bytes,
            free_bytes=min(total_bytes, ram_free_bytes),
        )


def _gpu(torch: Any, kind: Literal["cuda", "rocm", "xpu"], index: int) -> Processor | str:
    """Describes one GPU, or says in a sentence why it can't be used; a broken GPU doesn't hide the others."""
    gpus, capability = torch.xpu if kind == "xpu" else torch.cuda, None
    try:
        name = gpus.get_device_name(index)
        if kind == "cuda":
            capability = gpus.get_device_capability(index)
            if not has_kernels(capability, gpus.get_arch_list()):
                return (
                    f"{name} can't be used: torch {torch.__version__} has no kernels for compute capability "
                    f"{capability[0]}.{capability[1]}; builds at https://download.pytorch.org/whl/cu126 go back to 5.0."
                )
        free_bytes, total_bytes = gpus.mem_get_info(index)
    except (RuntimeError, AssertionError) as exc:  # torch raises these: out of memory, a failed initialisation
        return _sentence(f"GPU {index} can't be used: {exc}")
    device = f"{'xpu' if kind == 'xpu' else 'cuda'}:{index}"
    return Processor(
        kind=kind, device=device, name=name, total_bytes=total_bytes, free_bytes=free_bytes, capability=capability
    )


def _unseen_gpu(torch: Any, root: Path) -> list[str]:
    """Returns a fault if an NVIDIA driver is here but torch has no CUDA: the usual reason for slow answers."""
    if not (root / "proc/driver/nvidia/version").exists() or torch.version.cuda or torch.version.hip:
        return []
    return [
        f"An NVIDIA driver is installed, but torch {torch.__version__} is built without CUDA; "
        "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130."
    ]


def _sysctl(name: str) -> str:
    """Reads a value of macOS' sysctl; "" on other systems, and for a name that this Mac doesn't know."""
    if sys.platform != "darwin":
        return ""
    try:
        done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _sentence(message: str) -> str:
    """Cuts torch's message to its first sentence, on one line."""
    first = " ".join(message.split()).split(". ")[0].rstrip(".")
    return f"{first}."


def limited_ram(total_bytes: int, free_bytes: int, *, root: Path = ROOT) -> tuple[int, int]:
    """Reduces (total, free) RAM to the limits of this process: in a container of 4 GiB on a machine of 64, total is 4.

    Every control group up to the root can have a limit. Memory that only caches files counts as free. Address space
    that this process uses already, libraries included, doesn't.
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
            stat = re.search(r"^(?:total_)?inactive_file (\d+)$", contents(folder / "memory.stat"), re.MULTILINE)
            unused_bytes = limit_bytes - (used_bytes or 0) + (int(stat[1]) if stat else 0)
            free_bytes = max(0, min(free_bytes, unused_bytes))
    return total_bytes, min(free_bytes, total_bytes)


def _address_space_bytes() -> int | None:
    """Reads the limit of `ulimit -v` in bytes; None if there is no limit."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def core_quota(*, root: Path = ROOT) -> int | None:
    """Counts the whole cores that control groups allow: "150000 100000" → 1. At least 1; None if there is no limit."""
    quotas = []
    for folder in _groups("cpu", root):
        words = contents(folder / "cpu.max").split()
        if not words:
            words = [contents(folder / "cpu.cfs_quota_us").strip(), contents(folder / "cpu.cfs_period_us").strip()]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            quotas.append(max(1, int(words[0]) // int(words[1])))
    return min(quotas, default=None)


def contents(path: Path) -> str:
    """Reads a file of /proc or /sys; "" if it isn't there or may not be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _groups(controller: str, root: Path) -> list[Path]:
    """Lists the folders of this process's control group and its parents, innermost first, under cgroup v1 or v2.

    "5:memory:/a/b" → memory/a/b, memory/a, memory; "0::/a" → a and the top folder. A container may lack the inner ones.
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


def _number(*paths: Path) -> int | None:
    """Reads the number in the first of these files that holds one; None if none does, for example only "max"."""
    texts = (contents(path).strip() for path in paths)
    return next((int(text) for text in texts if text.isdigit()), None)
