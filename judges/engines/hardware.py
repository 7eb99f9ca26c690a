"""Hardware of this machine: processors, memory and number formats. Importing it loads no model library."""

from __future__ import annotations

import os
import sys
from pathlib import Path

GIB = 1 << 30
ACCELERATOR_TRACES = ("dev/nvidia*", "dev/kfd", "dev/accel*", "dev/dxg", "dev/dri/render*", "proc/driver/nvidia/gpus/*")
"""Files that drivers of accelerators create."""
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86 AVX-512, x86 AMX, Arm


def count_cpus() -> int:
    """Count the processors that this process may use, limited by CPU affinity and cgroup quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _read_system_file("/sys/fs/cgroup/cpu.max").split()  # microseconds per period, and the period
    if len(quota) == 2 and quota[0] != "max":
        count = min(count, max(1, int(quota[0]) // int(quota[1])))
    return count


def measure_available_memory() -> int:
    """Measure the memory in bytes that new processes can use without swapping, limited by the cgroup."""
    available = sys.maxsize
    for line in _read_system_file("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = (
        _read_system_file("/sys/fs/cgroup/memory.max").strip(),
        _read_system_file("/sys/fs/cgroup/memory.current").strip(),
    )
    if limit.isdigit() and used.isdigit():
        available = min(available, int(limit) - int(used) + _read_reclaimable_memory())
    return available


def _read_reclaimable_memory() -> int:
    """Read the bytes of file cache in the cgroup, which the kernel frees under memory pressure."""
    for line in _read_system_file("/sys/fs/cgroup/memory.stat").splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0


def has_native_bfloat16() -> bool:
    """Return whether the processor has bfloat16 instructions; emulated bfloat16 is much slower than float32."""
    for line in _read_system_file("/proc/cpuinfo").splitlines():
        if line.startswith(("flags", "Features")):  # the name on x86 and on Arm
            return not set(_BF16_FLAGS).isdisjoint(line.split())
    return False


def has_accelerators() -> bool:
    """Return whether there is any sign of a GPU or another accelerator. Imports nothing."""
    return any(list(Path("/").glob(pattern)) for pattern in ACCELERATOR_TRACES)


def count_cuda_devices() -> int:
    """Count the GPUs that torch can use. Imports torch."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_dtype(name: str, on_gpu: bool) -> str:
    """Return `name`, or for `auto` the fastest torch dtype of the device that does not degrade results."""
    if name != "auto":
        return name
    return "bfloat16" if on_gpu or has_native_bfloat16() else "float32"


def _read_system_file(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
