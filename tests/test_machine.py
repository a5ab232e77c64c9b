"""What is done to the process: memory that is kept instead of given back."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from i2vpp.build_i2vpp import tune_allocator
from i2vpp.utils.machine import keep_freed_memory
from models import make_predictor

FREED = """
import torch
from pathlib import Path
from i2vpp.utils.machine import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if {keep}:
    assert keep_freed_memory()
    assert keep_freed_memory(), "a second call does no harm"
before = resident()
torch.ones(2**26)  # 256 MiB, freed at once
print(resident() - before)
"""


def freed_memory_that_stays(*, keep: bool) -> int:
    """Bytes that a process still takes after it freed 256 MiB."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))
    }
    command = [sys.executable, "-c", FREED.format(keep=keep)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_kept():
    assert freed_memory_that_stays(keep=True) > 200 * 2**20
    assert freed_memory_that_stays(keep=False) < 50 * 2**20


@pytest.mark.parametrize("name", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_environment_has_the_last_word(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert keep_freed_memory() is False


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False


def test_only_a_program_that_asks_for_it_changes_its_allocator(monkeypatch):
    calls = []
    monkeypatch.setattr("i2vpp.build_i2vpp.keep_freed_memory", lambda: calls.append(1) or True)
    small, large = make_predictor(), make_predictor(image_size=512)
    assert not calls
    assert not tune_allocator(small)
    assert not calls
    assert tune_allocator(large)
    monkeypatch.setattr(type(large), "device", torch.device("meta"))
    assert not tune_allocator(large)
    assert len(calls) == 1
