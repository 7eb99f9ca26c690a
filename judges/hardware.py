"""What this machine has: processors, memory, number formats. Reads the system only; imports no model library."""

from __future__ import annotations

import os
import sys
from pathlib import Path

GIB = 1 << 30
_BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")  # x86 AVX-512 and AMX; `bf16` is Arm's


def count_cpus() -> int:
    """Processors this process may use: affinity and control-group quota taken into account."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    quota = _read_system_file("/sys/fs/cgroup/cpu.max").split()
    if len(quota) == 2 and quota[0] != "max":
        allowed = min(allowed, max(1, int(quota[0]) // int(quota[1])))
    return allowed


def measure_available_memory() -> int:
    """Bytes that new processes can take without swapping, control-group limit included."""
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
    """Bytes that the control group holds as file cache and gives back when asked."""
    for line in _read_system_file("/sys/fs/cgroup/memory.stat").splitlines():
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0


def has_native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself. Where it does not, bfloat16 is emulated and several times
    slower than float32."""
    flags = next(
        (line for line in _read_system_file("/proc/cpuinfo").splitlines() if line.startswith(("flags", "Features"))), ""
    )
    return any(flag in flags.split() for flag in _BF16_FLAGS)


def count_cuda_devices() -> int:
    """GPUs that torch can use. Imports torch."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def choose_dtype(name: str, on_gpu: bool) -> str:
    """`name`, or for `auto` the torch dtype that is fastest there without loss that matters."""
    if name != "auto":
        return name
    return "bfloat16" if on_gpu or has_native_bfloat16() else "float32"


def _read_system_file(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
