"""`python -m training.export`: small weights with a card, in either form."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors
import torch

from i2vpp.checkpoint import inspect_checkpoint, read_checkpoint, save_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.modeling.i2vpp import I2VPP
from training import export


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.pt"
    torch.manual_seed(0)
    extra = {"card": {"licence": "any", "data": "made up"}, "training": {"step": 3}}
    save_checkpoint(I2VPP(ModelConfig(image_size=64)), path, image_size=64, extra=extra)
    return path


@pytest.mark.parametrize("name", ["mine.pt", "new/model.safetensors"])
@pytest.mark.parametrize("dtype", ["bf16", "float32"])
def test_the_suffix_chooses_the_form(
    name: str, dtype: str, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / name
    assert (
        export.main([str(checkpoint), str(out), "--dtype", dtype, "--card", "data=DAVIS", "limits=small = slow"]) == 0
    )
    assert str(out) in capsys.readouterr().out
    info = inspect_checkpoint(out)
    assert (info.fits, info.image_size) == (True, 64)
    assert info.card == {"licence": "any", "data": "DAVIS", "limits": "small = slow"}
    assert info.checked == ("SHA-256" if out.suffix == ".safetensors" else "CRC-32, SHA-256")
    assert "training" not in read_checkpoint(out)
    if out.suffix == ".safetensors":
        with safetensors.safe_open(out, "pt") as file:
            assert file.metadata()["format"] == "pt"
    if dtype == "float32":
        before, after = read_checkpoint(checkpoint)["model"], read_checkpoint(out)["model"]
        assert all(torch.equal(value, after[entry]) for entry, value in before.items())


def test_the_folder_of_an_exported_model_is_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    assert export.main([str(checkpoint), str(tmp_path / "mine/model.safetensors")]) == 0
    assert export.main([str(tmp_path / "mine"), str(tmp_path / "again.pt")]) == 0
    first, second = (read_checkpoint(tmp_path / name) for name in ("mine", "again.pt"))
    assert first["meta"] == second["meta"]  # the hash among it


def test_the_average_of_two_checkpoints_is_written(checkpoint: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_checkpoint(I2VPP(ModelConfig(image_size=64)), tmp_path / "before=1.pt", image_size=64)
    arguments = [str(checkpoint), str(tmp_path / "mean.pt"), "--dtype", "float32"]
    assert export.main([*arguments, "--average", f"{tmp_path / 'before=1.pt'}=0.25"]) == 0
    one, other, mean = (
        read_checkpoint(p)["model"] for p in (checkpoint, tmp_path / "before=1.pt", tmp_path / "mean.pt")
    )
    floats = [name for name, value in one.items() if value.is_floating_point()]
    assert any(not torch.equal(one[name], other[name]) for name in floats)
    for name in floats:
        torch.testing.assert_close(mean[name], 0.75 * one[name] + 0.25 * other[name])


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nothing.pt", "out.pt"], 1, "nothing.pt does not exist"),
        (["{}", "out.pt", "--card", "licence"], 2, "expected KEY=TEXT, got 'licence'"),
        (
            ["{}", "out.pt", "--average", "before.pt=2"],
            1,
            "the share of before.pt in the average must lie in [0, 1]; got 2.0",
        ),
        (["{}", "out.pt", "--average", "before.pt=nan"], 1, "must lie in [0, 1]; got nan"),
        (["{}", "out.pt", "--average", "before.pt"], 2, "expected FILE=SHARE such as before.pt=0.3, got 'before.pt'"),
        (["{}", "out.pt", "--average", "before.pt=0.5"], 1, "before.pt does not exist"),
        (["{}", "{}/out.pt"], 1, "Not a directory|File exists"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], status: int, message: str, checkpoint: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        export.main([text.format(checkpoint) for text in arguments])
    assert end.value.code == status
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert any(words in lines[0] for words in message.split("|"))
