"""Fixtures shared by all tests. Nothing here touches global state, but for the number of threads."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before PyTorch is loaded: its libraries use as many threads as there are cores in threads that Python starts, whatever
# `torch.set_num_threads` says in the main thread, and results differ in the last bits then.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

REPO = Path(__file__).resolve().parent.parent


def _devices() -> list[str]:
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ["cpu", *(name for name, available in there.items() if available)]


def pytest_configure() -> None:
    """Let commands that are tested hear Ctrl-C."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # of a run in the background; what it starts would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _the_usual_priority_after_every_test() -> Iterator[None]:
    """What a real-time thread starts inherits its priority and starves all else; see `usual_priority` in media.py."""
    yield
    if hasattr(os, "sched_getscheduler") and os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))  # the tests that follow are not to blame
        pytest.fail("the test made this thread a real-time one")


@pytest.fixture(autouse=True)
def _as_many_threads_after_a_test_as_before() -> Iterator[None]:
    """Set the number again, whatever thread has changed it: results depend on it in the last bits."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` without a CUDA device, and run the longest first: no worker is left alone with one."""
    for item in items:
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    items.sort(key=_expected_length, reverse=True)


def _expected_length(item: pytest.Item) -> tuple[bool, float]:
    timeout = item.get_closest_marker("timeout")
    return item.get_closest_marker("slow") is not None, timeout.args[0] if timeout else 0


@pytest.fixture(scope="session", params=_devices())
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each kind of device of this machine; the CPU is always among them."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def parity() -> Path:
    """The folder of inputs and outputs recorded from the published model."""
    return Path(__file__).resolve().parent / "parity"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """A folder of real data that is no part of the project; tests that ask for it are skipped where there is none."""
    named = os.environ.get("I2VPP_SHARED")
    folder = Path(named) if named else REPO.parent / "shared"
    if folder.is_dir():
        return folder
    if named:
        pytest.fail(f"I2VPP_SHARED names {named!r}, which is not a folder")
    pytest.skip("optional local data is not here; I2VPP_SHARED can name its folder")
