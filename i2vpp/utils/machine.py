"""The machine: names of its devices, peak memory, and how the C library allocates memory."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

import torch

from i2vpp.errors import ConfigError
from i2vpp.utils.brief import brief
from i2vpp.utils.suggest import did_you_mean

DEVICES = ("cpu", "cuda", "mps")
"""Devices that messages suggest; all others that PyTorch knows are accepted, too."""

GLIBC_KEEP = {-1: 2**30, -4: 0}
"""Options of `mallopt`: M_TRIM_THRESHOLD (-1), free bytes that are kept; M_MMAP_MAX (-4), blocks mapped singly."""


def parse_device(device: str | int | torch.device) -> torch.device:
    """Return a device by its name, or a GPU by its number, whether or not this machine has it.

    Raises:
        ConfigError: it is no device.
    """
    try:
        found = torch.device(f"cuda:{device}" if isinstance(device, int) else device)
    except (RuntimeError, TypeError, ValueError):
        found = None
    if found is None or found.type == "meta":
        kind = str(device).partition(":")[0]
        raise ConfigError(f"unknown device {brief(device)}; {did_you_mean(kind, DEVICES)}")
    return found


def device_name(device: torch.device) -> str:
    """Return the name of a device's hardware."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_computes_bfloat16() -> bool:
    """Return whether the processor has instructions for bfloat16; others emulate it, which takes many times as long.

    Only Linux tells; elsewhere the answer is no.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return False
    words = set(cpuinfo.read_text(encoding="utf-8", errors="replace").split())
    return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})  # the last one is Arm's


def peak_memory(device: torch.device) -> int | None:
    """Return the peak memory in bytes: of tensors on a CUDA device since the last reset, or else of the process.

    On Linux it is VmHWM, because `ru_maxrss` of a child process starts at the size of its parent. None where the system
    does not tell.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "darwin":
        import resource  # noqa: PLC0415 - not on Windows

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


def keep_freed_memory() -> bool:
    """Have freed memory kept for the next allocation instead of given back to the system; return whether that worked.

    A network on a CPU allocates and frees tensors of tens of megabytes many times per frame. The C library of Linux
    (glibc) gives each of them back at once, and the system clears every page anew. Keeping them, as PyTorch does on
    GPUs, saves a fifth to a third of the time of the image encoder; the process then stays at its peak of memory. It
    concerns the whole process. Nothing is changed where the environment says how to allocate (`MALLOC_...`,
    `GLIBC_TUNABLES`), and on other systems.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(option, value) for option, value in GLIBC_KEEP.items())
