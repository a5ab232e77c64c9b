"""Another image trunk for a trained network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.checkpoint import load_checkpoint, save_checkpoint
from i2vpp.config import ModelConfig
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.frames import normalise
from models import SIDE
from training.model.initialise import initialise
from training.replace_trunk import Example, _descend, _error, _linears, _spread, find_clips, main, replace_trunk
from training.utils.network_input import read_frame


def network(seed: int) -> I2VPP:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = I2VPP(ModelConfig(image_size=SIDE)).eval()
        initialise(model, seed=seed)
    return model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 photos of smooth blobs, and a video of 12 frames beside them."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)

    def draw(path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        blobs = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
        blobs.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)

    for k in range(16):
        draw(folder / "photos" / f"{k:02d}.png")
    (folder / "videos").mkdir()
    for k in range(12):
        draw(folder / "videos" / "walk" / f"{k:02d}.png")
    return folder


def test_clips_are_photos_that_stand_still_and_pieces_of_videos(pictures) -> None:
    clips = find_clips([pictures / "photos"], [pictures / "videos"], exclude=frozenset({"03"}))
    names = [[path.name for path in clip] for clip in clips]
    assert len(names) == 15 + 2
    assert names[0] == ["00.png"] * 3 and ["03.png"] * 3 not in names
    assert names[-2:] == [["00.png", "01.png", "02.png"], ["09.png", "10.png", "11.png"]]
    assert len(find_clips([pictures / "photos"], [pictures / "videos"], names=frozenset())) == 16


def test_the_same_trunk_leaves_the_features_as_they_were(pictures) -> None:
    model = network(0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frame = normalise(read_frame(pictures / "photos" / "05.png", SIDE).float())
    clip = frame[None, :, None].expand(-1, -1, 3, -1, -1)
    with torch.no_grad():
        known = model.encode(clip).embedding
        left = replace_trunk(
            model,
            network(0).image_encoder.trunk_image,
            find_clips([pictures / "photos"], []),
            steps=1,
            learning_rate=0.0,
        )
        found = model.encode(clip).embedding
    assert left < 0.01
    assert (found - known).std() < 0.1 * known.std()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.rsplit(".", 2)[0] for name in changed} == {"image_encoder.trunk_video.input_linears"}


def test_another_trunk_is_fitted(pictures) -> None:
    clips = find_clips([pictures / "photos"], [])
    model, swapped, new = network(0), network(0), network(1).image_encoder.trunk_image
    swapped.image_encoder.trunk_image.load_state_dict(new.state_dict())
    clip = torch.randn(1, 3, 3, SIDE, SIDE)
    with torch.no_grad():
        known, unfitted = model.encode(clip).embedding, swapped.encode(clip).embedding
    spread = known.std(dim=(0, 2, 3), keepdim=True)
    left = replace_trunk(model, new, clips, steps=1)
    assert left < 0.5 * ((unfitted - known) / spread).square().mean()


def test_gradient_descent_brings_the_integrator_closer() -> None:
    integrator, known = network(0).image_encoder.trunk_video, network(1).image_encoder.trunk_video
    generator = torch.Generator().manual_seed(0)
    examples = []
    for _ in range(8):
        frames = torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
        maps = [
            torch.randn(linear.in_channels, 4, 4, generator=generator).bfloat16() for linear in _linears(integrator)
        ]
        with torch.no_grad():
            clip = normalise(frames.float().movedim(1, 0)).movedim(0, 1)
            target = known([x[None].float() for x in maps], clip[None])[0].bfloat16()
        examples.append(Example(clip=frames, maps=maps, target=target))
    spread = _spread([x.target for x in examples])
    whole = torch.stack([x.target.float() for x in examples]).std(dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(spread.flatten(), whole, rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        before = _error(integrator, examples, spread, torch.float32)
    _descend(integrator, examples, spread, 30, 1e-3, torch.float32, generator)
    with torch.no_grad():
        assert _error(integrator, examples, spread, torch.float32) < 0.5 * before


def test_the_command_writes_a_checkpoint(pictures, tmp_path, capsys) -> None:
    for name, seed in (("old.pt", 0), ("new.pt", 1)):
        save_checkpoint(network(seed), tmp_path / name, image_size=SIDE)
    out = tmp_path / "out.pt"
    command = [str(tmp_path / "old.pt"), "--trunk", str(tmp_path / "new.pt"), "--steps", "1", "-o", str(out)]
    with pytest.raises(SystemExit):
        main(command)
    assert "0 clips: --images and --videos" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--videos", str(tmp_path / "nowhere")])
    assert "nowhere" in (error := capsys.readouterr().err) and error.count("\n") == 1
    assert main([*command, "--images", str(pictures / "photos")]) == 0
    model = I2VPP(ModelConfig(image_size=SIDE))
    load_checkpoint(model, out)
    new, old = network(1).image_encoder.trunk_image.state_dict(), network(0).state_dict()
    assert all(torch.equal(x, new[name]) for name, x in model.image_encoder.trunk_image.state_dict().items())
    assert all(
        torch.equal(x, old[name]) for name, x in model.state_dict().items() if not name.startswith("image_encoder.")
    )
