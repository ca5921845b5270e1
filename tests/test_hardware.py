"""The probe on the machine at hand, and its reading of files and of torch's answers, handed in as samples and fakes."""

from __future__ import annotations

import os
import resource
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vllava_cli.hardware import (
    core_quota,
    cpu_cores,
    cpu_facts,
    find_accelerators,
    has_kernels,
    is_installed,
    limited_ram,
    physical_cores,
    probe,
)
from vllava_cli.machine import Processor

GIB = 2**30


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_probe_of_this_machine_agrees_with_itself_and_the_system(capfd: pytest.CaptureFixture[str]) -> None:
    found = probe()
    assert found.cpu_name == found.cpu_name.strip() != ""
    assert 1 <= found.cpu_cores == cpu_cores() <= (os.cpu_count() or 1)
    assert 0 < found.ram_free_bytes <= found.ram_total_bytes
    for gpu in found.accelerators:
        assert 0 <= gpu.free_bytes <= gpu.total_bytes
        assert (gpu.capability is not None) == (gpu.kind == "cuda")
    assert found.accelerators or not found.has_flash_attn
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("cpuinfo", "facts"),
    [
        (
            "processor\t: 0\nmodel name\t: AMD EPYC 9554\nflags\t\t: fpu avx512f avx512_bf16 amd\n",
            ("AMD EPYC 9554", True),
        ),
        ("model name\t: Intel(R) Xeon(R) 8480\nflags\t\t: fpu amx_bf16 amx_tile\n", ("Intel(R) Xeon(R) 8480", True)),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16 dgh\nCPU part\t: 0xd40\n", (None, True)),
        ("processor\t: 0\nFeatures\t: fp asimd crc32\nCPU part\t: 0xd08\n", (None, False)),
        ("model name\t: x\nbugs\t\t: avx512_bf16\nflags\t\t: my_avx512_bf16_not\n", ("x", False)),
        ("", (None, False)),
    ],
)
def test_name_and_bf16_are_read_from_cpuinfo(cpuinfo: str, facts: tuple[str | None, bool]) -> None:
    assert cpu_facts(cpuinfo) == facts


TOP = "sys/fs/cgroup/"
GROUPS: dict[str, tuple[dict[str, object], tuple[int, int], int | None]] = {
    "a v2 container, whose file cache counts as free": (
        {
            "proc/self/cgroup": "0::/",
            TOP + "memory.max": 8 * GIB,
            TOP + "memory.current": 5 * GIB,
            TOP + "memory.stat": f"anon {2 * GIB}\nactive_file 7\ninactive_file {3 * GIB}",
            TOP + "cpu.max": "250000 100000",
        },
        (8 * GIB, 6 * GIB),
        2,
    ),
    "nested v2 groups, of which the tightest counts": (
        {
            "proc/self/cgroup": "0::/batch.slice/job.scope",
            TOP + "batch.slice/job.scope/memory.max": "max",
            TOP + "batch.slice/job.scope/cpu.max": "max 100000",
            TOP + "batch.slice/memory.max": 16 * GIB,
            TOP + "batch.slice/memory.current": 20 * GIB,
            TOP + "batch.slice/cpu.max": "50000 100000",
        },
        (16 * GIB, 0),
        1,
    ),
    "v1 groups, which have a folder per controller": (
        {
            "proc/self/cgroup": "5:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n2:cpuset:/\n1:name=systemd:/",
            TOP + "memory/memory.limit_in_bytes": 4 * GIB,
            TOP + "memory/memory.usage_in_bytes": GIB,
            TOP + "memory/memory.stat": "total_inactive_file 0",
            TOP + "cpu/docker/abc/cpu.cfs_quota_us": 400000,
            TOP + "cpu/docker/abc/cpu.cfs_period_us": 100000,
        },
        (4 * GIB, 3 * GIB),
        4,
    ),
    "v1 groups without a limit": (
        {
            "proc/self/cgroup": "5:memory:/\n3:cpu:/\n0::/",
            TOP + "memory/memory.limit_in_bytes": 9223372036854771712,
            TOP + "memory/memory.usage_in_bytes": GIB,
            TOP + "cpu/cpu.cfs_quota_us": -1,
            TOP + "cpu/cpu.cfs_period_us": 100000,
        },
        (64 * GIB, 50 * GIB),
        None,
    ),
    "no groups": ({}, (64 * GIB, 50 * GIB), None),
}


@pytest.mark.parametrize("name", GROUPS)
def test_control_groups_limit_ram_and_cores(name: str, tmp_path: Path) -> None:
    files, ram, cores = GROUPS[name]
    for path, content in files.items():
        write(tmp_path, path, f"{content}\n")
    assert limited_ram(64 * GIB, 50 * GIB, root=tmp_path) == ram
    assert core_quota(root=tmp_path) == cores


def test_two_threads_of_one_core_count_once(tmp_path: Path) -> None:
    for cpu, siblings in ((0, "0,4"), (4, "0,4"), (1, "1,5")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", f"{siblings}\n")
    assert physical_cores({0, 4, 1}, root=tmp_path) == 2
    assert physical_cores({4}, root=tmp_path) == 1
    assert physical_cores({7, 8}, root=tmp_path) == 2, "without a topology each logical CPU is a core"


@pytest.mark.parametrize(
    ("capability", "arch_list", "expected"),
    [
        ((6, 1), ["sm_75", "sm_80", "sm_90"], False),
        ((7, 5), ["sm_75", "sm_80"], True),
        ((8, 9), ["sm_80", "sm_86"], True),
        ((8, 0), ["sm_86"], False),
        ((12, 0), ["sm_90a", "sm_100"], False),
        ((12, 1), ["sm_90", "compute_90"], True),
        ((8, 0), ["sm_90", "compute_90"], False),
        ((8, 0), [], True),
    ],
)
def test_a_build_of_torch_has_kernels_for_a_gpu_or_not(
    capability: tuple[int, int], arch_list: list[str], expected: bool
) -> None:
    assert has_kernels(capability, arch_list) is expected


def test_an_installed_package_is_found_from_its_floor_on() -> None:
    assert is_installed("pytest", "pytest", (7,))
    assert not is_installed("pytest", "pytest", (999,))
    assert not is_installed("no_such_module_here", "pytest", (0,))
    assert not is_installed("pytest", "no-such-distribution-here", (0,))


def fake_cuda(
    *gpus: Any, warning: str = "", arch_list: tuple[str, ...] = ("sm_75", "sm_80", "sm_90")
) -> SimpleNamespace:
    """torch.cuda with these GPUs: (name, capability, free, total), or an exception that asking for one raises."""

    def is_available() -> bool:
        if warning:
            warnings.warn(warning, stacklevel=2)
        return bool(gpus)

    def gpu(index: int) -> Any:
        if isinstance(gpus[index], Exception):
            raise gpus[index]
        return gpus[index]

    return SimpleNamespace(
        is_available=is_available,
        device_count=lambda: len(gpus),
        get_device_name=lambda index: gpu(index)[0],
        get_device_capability=lambda index: gpu(index)[1],
        get_arch_list=lambda: list(arch_list),
        mem_get_info=lambda index: gpu(index)[2:],
    )


def fake_torch(
    *,
    cuda: SimpleNamespace | None = None,
    xpu: SimpleNamespace | None = None,
    mps_bytes: int = 0,
    hip: str | None = None,
) -> Any:
    return SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda="13.0" if cuda and not hip else None, hip=hip),
        cuda=cuda or fake_cuda(),
        xpu=xpu or fake_cuda(),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps_bytes > 0)),
        mps=SimpleNamespace(recommended_max_memory=lambda: mps_bytes),
    )


def test_a_gpu_that_breaks_hides_no_other_and_is_told() -> None:
    torch = fake_torch(
        cuda=fake_cuda(
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronous. Compile with"),
            ("NVIDIA GeForce GTX 1080", (6, 1), 7 * GIB, 8 * GIB),
            ("NVIDIA L4", (8, 9), 21 * GIB, 22 * GIB),
        )
    )
    l4 = Processor(
        kind="cuda", device="cuda:2", name="NVIDIA L4", total_bytes=22 * GIB, free_bytes=21 * GIB, capability=(8, 9)
    )
    assert find_accelerators(torch, ram_free_bytes=GIB) == (
        (l4,),
        (
            "GPU 0 can't be used: CUDA error: out of memory CUDA kernel errors might be asynchronous.",
            "NVIDIA GeForce GTX 1080 can't be used: torch 2.13.0 has no kernels for compute capability 6.1; "
            "builds at https://download.pytorch.org/whl/cu126 go back to 5.0.",
        ),
    )


def test_a_driver_that_does_not_fit_torch_becomes_a_fault_and_no_warning() -> None:
    warning = "CUDA initialization: The NVIDIA driver on your system is too old (found version 11040). Please update."
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = find_accelerators(fake_torch(cuda=fake_cuda(warning=warning)), ram_free_bytes=GIB)
    assert found == ((), ("CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).",))


def test_an_nvidia_driver_beside_a_torch_without_cuda_is_told(tmp_path: Path) -> None:
    write(tmp_path, "proc/driver/nvidia/version", "NVRM version: 580.1\n")
    _, faults = find_accelerators(fake_torch(), ram_free_bytes=GIB, root=tmp_path)
    unrelated = fake_torch(cuda=fake_cuda(warning="something unrelated is deprecated"))
    assert find_accelerators(unrelated, ram_free_bytes=GIB, root=tmp_path / "none") == ((), ())
    assert faults == (
        "An NVIDIA driver is installed, but torch 2.13.0 is built without CUDA; "
        "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu130.",
    )


@pytest.mark.parametrize(
    ("torch", "found"),
    [
        (
            fake_torch(cuda=fake_cuda(("AMD Instinct MI300X", (9, 4), 190 * GIB, 192 * GIB)), hip="7.1"),
            ("rocm", "cuda:0", 190 * GIB, 192 * GIB),
        ),
        (
            fake_torch(xpu=fake_cuda(("Intel Arc A770", None, 15 * GIB, 16 * GIB))),
            ("xpu", "xpu:0", 15 * GIB, 16 * GIB),
        ),
        (fake_torch(mps_bytes=10 * GIB), ("mps", "mps", 7 * GIB, 10 * GIB)),
        (fake_torch(mps_bytes=6 * GIB), ("mps", "mps", 6 * GIB, 6 * GIB)),
    ],
    ids=["AMD", "Intel", "Apple, as far as RAM is free", "Apple, up to its working set"],
)
def test_gpus_of_others_are_found_without_a_compute_capability(torch: Any, found: tuple[Any, ...]) -> None:
    (gpu,), faults = find_accelerators(torch, ram_free_bytes=7 * GIB)
    assert (gpu.kind, gpu.device, gpu.free_bytes, gpu.total_bytes) == found
    assert (gpu.capability, faults) == (None, ())


def test_an_address_space_limit_leaves_less(tmp_path: Path) -> None:
    """As `ulimit -v` and batch systems set it; what the process has taken already is gone."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/statm").write_text(f"{3 * GIB // os.sysconf('SC_PAGE_SIZE')} 1 1 1 0 1 0\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (512 * GIB, hard))
    try:
        assert limited_ram(1024 * GIB, 1000 * GIB, root=tmp_path) == (512 * GIB, 509 * GIB)
        assert limited_ram(64 * GIB, 50 * GIB, root=tmp_path) == (64 * GIB, 50 * GIB)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
