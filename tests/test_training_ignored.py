"""Pixels without a label (255 beside object ids): no loss depends on them, and no simulated click lies on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data_files import build, write_image, write_mask
from i2vpp.structures import MaskPrediction
from tools import pack_dataset
from training.config import AugmentConfig, ClipConfig, DataConfig, LossConfig, SourceConfig, UserConfig
from training.dataset.clips import ClipBatch, ignored_pixels
from training.dataset.loader import ClipDataset, LoadedBatch, collate
from training.dataset.plan import EpochPlan
from training.dataset.sampling import draw_clip
from training.loss_fns import LossTerms, StepOutput, clip_loss
from training.model.simulated_user import correction_click, first_click, object_generators
from training.synthetic.moving_stills import MovingStills

SIDE = 32
STILL = AugmentConfig(flip=0, degrees=0, shear=0, color=[0, 0, 0], gray=0, frame_color=[0, 0, 0])


def rows(first: int, last: int) -> Tensor:
    mask = torch.zeros(1, SIDE, SIDE, dtype=torch.bool)
    mask[:, first:last] = True
    return mask


OBJECT, OPEN, NOTHING = rows(4, 12), rows(12, 24), rows(0, 0)


def step(logits: Tensor) -> StepOutput:
    """Make a step of one object with two candidates and two auxiliary masks."""
    both = torch.stack([logits, logits / 2], dim=1)
    score = torch.ones(1)
    prediction = MaskPrediction(
        logits=both[:, :1], iou=score, object_score=score, pointer=torch.zeros(1, 1), candidates=both,
        candidate_ious=torch.full((1, 2), 0.3),
    )  # fmt: skip
    return StepOutput(prediction=prediction, auxiliary=both)


def loss(logits: Tensor, truth: Tensor, ignored: Tensor | None) -> LossTerms:
    return clip_loss([[step(logits)]], truth[:, None], None if ignored is None else ignored[:, None])


@pytest.mark.parametrize("truth", [OBJECT, NOTHING], ids=["present", "absent"])
def test_loss_and_gradient_do_not_depend_on_predictions_of_ignored_pixels(truth: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, SIDE, SIDE, generator=generator)
    other = torch.where(OPEN, 5 * torch.randn(1, SIDE, SIDE, generator=generator), logits)
    values, gradients = [], []
    for given in (logits, other):
        given.requires_grad_()
        total = loss(given, truth, OPEN).total(LossConfig())
        total.backward()
        assert given.grad is not None
        assert not given.grad[OPEN].any()
        values.append(total.item())
        gradients.append(given.grad)
    assert values[0] == values[1]
    assert torch.equal(*gradients)
    assert gradients[0].any() == truth.any()
    assert loss(logits, OBJECT, None).mask.item() != loss(other, OBJECT, None).mask.item()


def test_what_is_ignored_outside_of_a_mask_changes_nothing_where_nothing_is_ignored() -> None:
    logits = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    plain, none = loss(logits, OBJECT, None), loss(logits, OBJECT, NOTHING)
    assert [getattr(plain, name) for name in vars(plain)] == [getattr(none, name) for name in vars(none)]


def test_a_frame_of_which_nothing_is_known_costs_no_mask_loss() -> None:
    logits = torch.randn(1, SIDE, SIDE, requires_grad=True)
    terms = loss(logits, NOTHING, ~NOTHING)
    terms.total(LossConfig()).backward()
    assert (terms.mask.item(), terms.auxiliary.item(), terms.iou.item()) == (0, 0, 0)
    assert logits.grad is not None and not logits.grad.any()


@pytest.mark.parametrize("truth", [OBJECT, NOTHING], ids=["present", "absent"])
def test_no_click_is_placed_on_ignored_pixels(truth: Tensor) -> None:
    count = 300
    many, ignored = (mask.expand(count, -1, -1) for mask in (truth, OPEN))
    predicted = rows(6, 20).expand(count, -1, -1)  # mistakes are rows 4 and 5, and 12 to 19, which are ignored
    user = UserConfig(from_object=0.2)
    for coords, labels in (
        first_click(many, object_generators(range(count)), ignored),
        correction_click(many, predicted, object_generators(range(count)), user, ignored),
    ):
        row = coords[:, 0, 1]
        assert not ((row >= 12) & (row < 24)).any()
        assert torch.equal(labels[:, 0] == 1, (row >= 4) & (row < 12) & truth.any())


def test_where_everything_is_ignored_a_click_may_be_anywhere() -> None:
    coords, labels = first_click(NOTHING, object_generators([3]), ~NOTHING)
    assert coords.shape == (1, 1, 2) and labels.tolist() == [[0]]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos, of which the second one has ignored rows below its object."""
    ids = np.zeros((SIDE, SIDE), np.uint8)
    ids[4:12] = 7
    for name, open_rows in (("a", slice(0, 0)), ("b", slice(12, 24))):
        values = ids.copy()
        values[open_rows] = 255
        write_image(tmp_path / "images" / f"{name}.png", SIDE, SIDE)
        write_mask(tmp_path / "masks" / f"{name}.png", values)
    return tmp_path / "images"


def load(photos: Path, *, moving: bool = False, augment: AugmentConfig = STILL) -> ClipBatch:
    clip = ClipConfig(num_frames=2, moving_stills=moving)
    config = DataConfig(
        sources={"photos": SourceConfig(kind="palette_image", images=str(photos), batch_size=2, clip=clip)},
        augment=augment,
    )
    plan = EpochPlan({"photos": 2}, config.sources, seed=0, epoch=0, world_size=1)
    source = build("palette_image", photos)
    loaded = ClipDataset({"photos": source}, config, plan, rank=0, image_size=SIDE)[0]
    assert isinstance(loaded, LoadedBatch)
    return loaded.batch


def test_ignored_pixels_reach_the_batch_with_the_frames(photos: Path) -> None:
    batch = load(photos)
    assert batch.ignored is not None and batch.ignored.shape == batch.masks.shape == (2, 2, SIDE, SIDE)
    for name, ignored in zip(batch.names, batch.ignored, strict=True):
        assert torch.equal(ignored, (OPEN if name == "b" else NOTHING).expand(2, -1, -1))
    moved = load(photos, augment=replace(STILL, flip=1.0, degrees=25.0))
    assert moved.ignored is not None
    assert not (moved.ignored & moved.masks).any()
    assert 0 < moved.ignored.sum() < 1.3 * batch.ignored.sum()
    assert batch.to(torch.device("cpu")).ignored is not None


def test_a_batch_without_ignored_pixels_has_none_and_is_as_before(photos: Path) -> None:
    source = build("palette_image", photos)
    clip = draw_clip(source[0], ClipConfig(num_frames=1), seed=0)
    assert clip.ignored is None
    assert collate([clip], 0).ignored is None


def test_videos_of_stills_move_the_ignored_pixels_with_the_photo(photos: Path) -> None:
    include = photos.parent / "list.txt"
    include.write_text("b\n")
    video = MovingStills(build("palette_image", photos, include=include), num_frames=3)[0]
    masks = video.masks(1)
    ignored = ignored_pixels(masks)
    assert set(masks) == {7}
    assert ignored is not None and 0.1 < ignored.mean() < 0.6
    assert not (ignored & masks[7]).all()


def test_packed_photos_keep_their_ignored_pixels(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "packed"
    assert pack_dataset.main(["-o", str(output), "--kind", "palette_image", "--images", str(photos)]) == 0
    plain, partial = (ignored_pixels(video.masks(0)) for video in build("palette", output / "JPEGImages"))
    assert plain is None and partial is not None
    assert torch.equal(torch.from_numpy(partial), OPEN[0])
