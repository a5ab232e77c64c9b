"""Files that are complete or not there, and hints for unknown words."""

from __future__ import annotations

from pathlib import Path

import pytest

from i2vpp.utils.files import atomic_write
from i2vpp.utils.suggest import did_you_mean


def test_a_file_appears_under_its_name_when_the_block_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "new" / "result.json"
    with atomic_write(path, "w") as file:
        file.write("ä")
        assert not path.exists()
    assert path.read_bytes() == "ä".encode()
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "result.bin"
    path.write_bytes(b"whole")
    with pytest.raises(OSError, match="No space left"), atomic_write(path) as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert path.read_bytes() == b"whole"
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, calls = tmp_path / "result.bin", []
    monkeypatch.setattr("os.fsync", lambda _: calls.append(path.exists()))
    with atomic_write(path) as file:
        file.write(b"x")
    assert calls[0] is False


def test_the_nearest_word_is_suggested_whatever_its_case() -> None:
    assert did_you_mean("GPU", ["cpu", "cuda", "mps"]) == "did you mean 'cuda'?"
    assert did_you_mean("bfloat61", ["float32", "bfloat16"]) == "did you mean 'bfloat16'?"
    assert did_you_mean("xyz", ["cpu", "cuda"]) == "allowed: cpu, cuda"
