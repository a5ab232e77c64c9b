"""A start without pretrained weights: the teacher's embeddings, the student that learns them, and a matching memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.checkpoint import read_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.errors import DataError
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.structures import Conditioned, MaskPrediction, MemoryFrame, MemoryPointer, SelectedMemory
from models import parity_weights
from training.distillation import crops, student, teacher
from training.distillation.crops import Channels, Crops
from training.distillation.embeddings import EmbeddingReader, EmbeddingWriter
from training.distillation.prompted_masks import Heads, mask_distance, teacher_masks
from training.model.matching import CONTENT, MASK_GAIN, begin_as_matching


class Session:
    """A teacher whose embedding is the picture's red, pooled, in its first channel."""

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        assert names == ["image_embed"]
        image = inputs["image"]
        assert image.shape == (1, 3, 1024, 1024)
        embedding = np.zeros((1, 256, 64, 64), np.float32)
        embedding[0, 0] = image[0, 0].reshape(64, 16, 64, 16).mean((1, 3))
        return [embedding]


@pytest.fixture
def embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(teacher, "_session", lambda model: Session())
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for i in range(4):
        pixels = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 60)).save(tmp_path / "photos" / f"{i}.png")
    arguments = ["--model", "x.onnx", "--images", str(tmp_path / "photos"), "--every", "2", "--out"]
    assert teacher.main([*arguments, str(tmp_path / "embeddings")]) == 0
    return tmp_path / "embeddings"


def test_the_teacher_goes_on_where_it_stopped(embeddings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = EmbeddingReader(embeddings).images
    assert [path.name for path in images] == ["0.png", "2.png"]

    def refuse(*_: Any) -> None:
        raise AssertionError("embedded again")

    monkeypatch.setattr(Session, "run", refuse)
    teacher.embed(Path("x.onnx"), images, embeddings)


def test_embeddings_are_kept_to_half_a_step_and_an_interrupted_write_is_cut_off(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 256, 64, 64)).astype(np.float32)
    values[1, 5] = 2.0  # a constant channel
    pixels = np.random.default_rng(1).integers(0, 256, (3, 640, 640, 3), dtype=np.uint8)
    with EmbeddingWriter(tmp_path) as writer:
        for k in range(2):
            writer.add(Path(f"{k}.png"), pixels[k], values[k])
    for name in ("embeddings.u8", "photos.u8"):
        with (tmp_path / name).open("ab") as file:
            file.write(b"half an image of a killed process")
    with EmbeddingWriter(tmp_path) as writer:
        writer.add(Path("2.png"), pixels[2], values[2])
    reader = EmbeddingReader(tmp_path)
    assert [path.name for path in reader.images] == ["0.png", "1.png", "2.png"]
    steps = (values.max((2, 3)) - values.min((2, 3))) / 255
    for k in range(3):
        error = np.abs(reader.read(k).numpy() - values[k])
        assert (error <= steps[k][:, None, None] / 2 + 1e-5).all()
    part = reader.read(1, slice(2, 9), slice(60, 64))
    assert torch.equal(part, reader.read(1)[:, 2:9, 60:])
    part = reader.photo(2, slice(2, 9), slice(60, 64))
    assert np.array_equal(part.permute(1, 2, 0).numpy(), pixels[2, 20:90, 600:640])


def test_a_folder_without_photos(embeddings: Path) -> None:
    (embeddings / "photos.u8").unlink()
    with pytest.raises(DataError, match=r"photos.u8 is shorter than .* delete the folder and run the teacher again"):
        EmbeddingReader(embeddings)


def test_held_out_photos_are_not_embedded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
    assert [path.stem for path in teacher.find_images([tmp_path], every=1, exclude=frozenset({"a"}))] == ["b"]


def test_pictures_and_embeddings_are_cut_and_flipped_alike(embeddings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crops, "change_colours", lambda picture, rng: picture / 255)
    data = Crops([embeddings], image_size=64, batch_size=8, seed=1, steps=3)
    frames, embedding = data[0]
    assert frames.shape == (8, 3, 64, 64)
    assert embedding.shape == (8, 256, 4, 4)
    red = torch.nn.functional.adaptive_avg_pool2d(frames[:, 0], 4)
    for k in range(8):
        assert torch.corrcoef(torch.stack([red[k].flatten(), embedding[k, 0].flatten()]))[0, 1] > 0.85
    clips = crops.as_clips(frames, np.random.default_rng(3))
    assert torch.equal(clips[:, :, 2], frames)
    assert not torch.equal(clips[:, :, 0], frames), "earlier frames are shifted"
    assert torch.equal(clips[:, :, 0].flatten(1).sort().values, frames.flatten(1).sort().values)
    again = Crops([embeddings], image_size=64, batch_size=8, seed=1, steps=3)
    assert torch.equal(again[2][0], data[2][0])
    assert not torch.equal(data[1][0], data[2][0])


def test_colours_change_by_no_more_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.randint(0, 256, (64, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    rng = np.random.default_rng(0)
    changed = torch.stack([crops.change_colours(picture, rng) for picture in pictures])
    assert changed.dtype == torch.float32
    assert 0 <= changed.min() < changed.max() <= 1
    spread = (changed.amax(1) - changed.amin(1)).flatten(1).amax(1)
    assert 0 < int((spread < 1e-5).sum()) < 16, "a few are grey"
    assert (changed - pictures / 255).abs().flatten(1).amax(1).min() > 0.01, "every picture changes"
    grey = torch.full((3, 4, 4), 100, dtype=torch.uint8)
    assert crops.change_colours(grey, np.random.default_rng(1)).std() == pytest.approx(0, abs=1e-6), "no tint on grey"
    for name in ("BRIGHTNESS", "CONTRAST", "SATURATION", "HUE", "GREY"):
        monkeypatch.setattr(crops, name, 0.0)
    same = crops.change_colours(pictures[0], np.random.default_rng(0))
    assert torch.allclose(same, pictures[0] / 255, atol=1e-5)


def test_the_distance_is_one_for_a_spread_of_one() -> None:
    channels = Channels(offset=torch.tensor([[[0.5]]]), scale=torch.tensor([[[2.0]]]))
    target = torch.zeros(1, 1, 1, 2)
    assert student.distance(target + 0.5, target, channels) == 0
    assert student.distance(target + 2.5, target, channels) == 1


def test_the_loss_through_the_decoder_wants_the_masks_of_the_teacher() -> None:
    model = I2VPP(ModelConfig(image_size=64))
    model.load_state_dict(parity_weights())
    model.eval()
    frozen = [*model.sam_mask_decoder.parameters(), *model.sam_prompt_encoder.parameters(), model.no_mem_embed]
    for parameter in frozen:
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    features = model.encode(torch.randn(3, 3, 3, 64, 64, generator=generator))
    with torch.no_grad():
        plain = model.condition_on_memory(features, None).embedding
    clicked, boxed = teacher_masks(Heads.of(model), plain, [1, 2, 3])
    assert clicked.prompt.num_points == 1
    assert boxed.prompt.num_points == 2
    for answer in (clicked, boxed):
        assert answer.logits.shape == (3, 1, 16, 16)
        assert answer.prompt.coords is not None
        assert 0 <= answer.prompt.coords.min() <= answer.prompt.coords.max() <= 64
    other = teacher_masks(Heads.of(model), plain.flip(0), [1, 2, 3])
    same = mask_distance(model, features, [clicked, boxed])
    same.backward()
    assert all(parameter.grad is None for parameter in frozen)
    gradient = next(model.image_encoder.trunk_image.parameters()).grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    assert mask_distance(model, features, other) > same


def test_the_loss_through_the_decoder_needs_the_heads(
    embeddings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--embeddings", str(embeddings), "--out", str(tmp_path / "x.pt"), "--image-size", "64"]
    with pytest.raises(SystemExit):
        student.main([*arguments, "--mask-loss", "0.5"])
    assert "error: --mask-loss compares masks with those of the teacher: give its --heads" in capsys.readouterr().err


@pytest.mark.slow
def test_the_student_learns_resumes_and_ends_with_a_matching_memory(
    embeddings: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out, heads = tmp_path / "encoder.pt", tmp_path / "heads.pt"
    torch.save({name: value for name, value in parity_weights().items() if name.startswith("sam_")}, heads)
    options = ["--embeddings", str(embeddings), "--out", str(out), "--image-size", "64", "--batch-size", "2",
               "--workers", "0", "--steps", "6", "--heads", str(heads), "--mask-loss", "0.1"]  # fmt: skip
    assert student.main([*options, "--minutes", "0.0001"]) == 0
    first = read_checkpoint(out)
    assert first["distillation"]["step"] == 1
    assert student.main(options) == 0
    last = read_checkpoint(out)
    assert last["distillation"]["step"] == 6
    assert last["meta"]["image_size"] == 64
    assert not torch.equal(
        first["model"]["memory_encoder.out_proj.weight"], last["model"]["memory_encoder.out_proj.weight"]
    )
    assert "loss" in capfd.readouterr().err
    name = "sam_mask_decoder.iou_token.weight"
    assert torch.equal(first["model"][name], last["model"][name]), "heads do not learn here"
    assert torch.equal(first["model"][name], parity_weights()[name]), "a new network begins with the teacher's"
    with torch.no_grad():
        last["model"][name] += 1
    del last["meta"]["sha256"]  # it is that of the weights before
    torch.save(last, tmp_path / "tuned.pt")
    options[3] = str(tmp_path / "further.pt")
    assert student.main([*options, "--checkpoint", str(tmp_path / "tuned.pt"), "--minutes", "0.0001"]) == 0
    further = read_checkpoint(tmp_path / "further.pt")
    assert torch.equal(further["model"][name], last["model"][name]), "one that has learnt keeps its own heads"


def test_a_folder_without_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        student.main(["--embeddings", str(tmp_path), "--out", str(tmp_path / "x.pt")])
    assert "holds no images.jsonl: run `python -m training.distillation.teacher" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        teacher.main(["--model", str(tmp_path / "no.onnx"), "--images", str(tmp_path), "--out", str(tmp_path / "e")])
    assert "error: no images below" in capsys.readouterr().err


def test_a_matching_memory_holds_the_mask_and_attention_brings_it_back() -> None:
    model = I2VPP(ModelConfig(image_size=128))
    model.load_state_dict(parity_weights())
    model.eval()
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(8, 3, 1, 8, 8, generator=generator)  # more cells than channels, or the start is arbitrary
    clips = torch.nn.functional.interpolate(coarse, (1, 128, 128)).expand(-1, -1, 3, -1, -1)
    with torch.no_grad():
        begin_as_matching(model, model.encode(clips).embedding)
        features = model.encode(clips[:1])
        left = torch.zeros(1, 1, 128, 128)
        left[..., :64] = 1
        given: MaskPrediction = model.use_mask_as_output(features, left)
        memory = model.encode_memory(features, given, given.logits, conditioning=True)
        number = memory.values[0, CONTENT].float()
        assert number[2:6, :2] == pytest.approx(MASK_GAIN, rel=0.5)
        assert number[2:6, 6:] == pytest.approx(-MASK_GAIN, rel=0.5)

        def moved(mask: torch.Tensor) -> torch.Tensor:
            given = model.use_mask_as_output(features, mask)
            memory = model.encode_memory(features, given, given.logits, conditioning=True)
            selected = SelectedMemory(
                spatial=(MemoryFrame(memory=memory, slot=0),),
                pointers=(MemoryPointer(pointer=memory.pointer, offset=1.0),),
            )
            found: Conditioned = model.condition_on_memory(features, model.memory_tokens([selected]))
            return found.embedding[0]

        difference = moved(left) - moved(1 - left)
        direction = difference[:, :, :4].mean((1, 2))
        along = torch.einsum("chw,c->hw", difference, direction)
    assert along[2:6, :3].min() > 0 > along[2:6, 5:].max()
