"""From sources to batches: drawn clips, augmentation, the plan of an epoch and the loader."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from data_files import SQUARE, rle, write_image, write_json
from i2vpp.errors import DataError, NoDataError, VideoError
from i2vpp.session.frames import MEAN
from training.config import AugmentConfig, ClipConfig, DataConfig, SourceConfig
from training.dataset import transforms
from training.dataset.clips import Clip, Source
from training.dataset.loader import LoadedBatch, build_loader, open_sources
from training.dataset.plan import EpochPlan, derive_seed
from training.dataset.sampling import MAX_LOOKS, bounce, draw_clip
from training.dataset.transforms import transform_clip

SIZE = 32
STILL = AugmentConfig(flip=0, degrees=0, shear=0, color=[0, 0, 0], gray=0, frame_color=[0, 0, 0])


@dataclass
class Squares:
    """A video whose frame t is painted with t + 1, and whose object k is the k-th strip of the frames in `seen[k]`."""

    name: str = "squares"
    length: int = 10
    seen: Mapping[int, range] = field(default_factory=lambda: {1: range(1000)})
    size: tuple[int, int] = (24, 40)
    reads: Counter[str] = field(default_factory=Counter)

    def __len__(self) -> int:
        return self.length

    def image(self, t: int) -> np.ndarray:
        self.reads["image"] += 1
        return np.full((*self.size, 3), t + 1, np.uint8)

    def masks(self, t: int) -> dict[int, np.ndarray]:
        self.reads["masks"] += 1
        masks = {k: np.zeros(self.size, np.bool_) for k, frames in self.seen.items() if t in frames}
        for k, mask in masks.items():
            mask[8:16, 8 * (k - 1) : 8 * k] = True
        return masks


@dataclass
class Videos:
    """A source of `count` videos of which those in `broken` cannot be read."""

    name: str = "videos"
    count: int = 7
    broken: tuple[int, ...] = ()
    error: Callable[[str], BaseException] = DataError
    noise: bool = True

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Squares:
        if index in self.broken:
            raise self.error(f"{self.name}/{index}.jpg is broken")
        return Noise(name=f"{self.name}/{index}", seen={1: range(99), 2: range(0, 99, 2)})


class Noise(Squares):
    """Frames that differ in every pixel, the same at every reading."""

    def image(self, t: int) -> np.ndarray:
        rng = np.random.default_rng([t, *self.name.encode()])
        return rng.integers(0, 256, (*self.size, 3), np.uint8)


def frames_of(clip: Clip) -> list[int]:
    """Read back which frames of `Squares` a clip shows."""
    return [int(value) - 1 for value in clip.frames[:, 0, 0, 0]]


# ---- drawing clips


def test_a_clip_is_one_stride_apart_and_shows_its_objects_on_the_first_frame() -> None:
    config = ClipConfig(num_frames=3, max_objects=2, strides=[1, 2], reverse=0.0)
    found = set()
    for seed in range(60):
        video = Squares(seen={1: range(4), 2: range(2, 6), 3: range(0)})
        clip = draw_clip(video, config, seed)
        order = frames_of(clip)
        strides = set(np.diff(order).tolist())
        assert strides in ({1}, {2})
        assert clip.masks[:, 0].flatten(1).any(1).all()
        assert len(clip.masks) == 2 if order[0] in (2, 3) else len(clip.masks) == 1
        assert video.reads["image"] == 3
        assert clip.seed == seed
        found.add((order[0], *strides))
    assert found == {(start, stride) for start in range(6) for stride in (1, 2) if start + 2 * stride < 10}


def test_masks_are_those_of_their_frames_and_empty_where_the_object_is_absent() -> None:
    clips = [draw_clip(Squares(length=3, seen={2: range(1, 2)}), ClipConfig(num_frames=3), seed) for seed in range(8)]
    for clip in clips:
        assert frames_of(clip)[0] == 1
        assert [bool(mask.any()) for mask in clip.masks[0]] == [t == 1 for t in frames_of(clip)]
        assert clip.masks[0, 0].nonzero().amin(0).tolist() == [8, 8]
        assert clip.masks[0, 0].nonzero().amax(0).tolist() == [15, 15]


def test_time_runs_backwards_with_the_given_probability() -> None:
    config = ClipConfig(num_frames=4, reverse=0.25)
    steps = [frames_of(draw_clip(Squares(), config, seed)) for seed in range(400)]
    assert {int(np.diff(order)[0]) for order in steps} == {1, -1}
    assert sum(order[1] < order[0] for order in steps) / 400 == pytest.approx(0.25, abs=0.07)


@pytest.mark.parametrize(("length", "num_frames", "stride"), [(1, 1, 3), (1, 4, 1), (2, 5, 4), (5, 4, 3), (10, 4, 9)])
def test_clips_of_short_videos_are_whole(length: int, num_frames: int, stride: int) -> None:
    config = ClipConfig(num_frames=num_frames, strides=[stride], reverse=0.5)
    for seed in range(20):
        order = frames_of(draw_clip(Squares(length=length), config, seed))
        assert len(order) == num_frames
        steps = np.abs(np.diff(order))
        if length == 1:
            assert not any(steps)
        else:  # the largest stride that fits; 1 and turns at the ends where none does
            assert set(steps.tolist()) == {max((length - 1) // (num_frames - 1), 1)}


def test_bouncing_turns_at_both_ends() -> None:
    assert [bounce(step, 4) for step in range(9)] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert [bounce(step, 1) for step in range(3)] == [0, 0, 0]


def test_an_object_that_only_shows_at_the_end_begins_a_clip_that_turns_back() -> None:
    clip = draw_clip(Squares(length=6, seen={5: range(5, 6)}), ClipConfig(num_frames=3, reverse=0.0), 0)
    assert frames_of(clip) == [5, 4, 3]


def test_the_search_for_an_object_is_limited() -> None:
    video = Squares(name="sky", length=1000, seen={1: range(0)})
    with pytest.raises(DataError, match=f"sky: no object shows on {MAX_LOOKS} of its 1000 frames"):
        draw_clip(video, ClipConfig(), 0)
    assert video.reads == {"masks": MAX_LOOKS}
    with pytest.raises(DataError, match="sky: no object shows on any of its 9 frames"):
        draw_clip(replace(video, length=9), ClipConfig(), 0)
    with pytest.raises(DataError, match="sky: no annotated frame"):
        draw_clip(replace(video, length=0), ClipConfig(), 0)


def test_sizes_that_do_not_fit_are_named() -> None:
    class Growing(Squares):
        def image(self, t: int) -> np.ndarray:
            return np.zeros((24, 40 + t, 3), np.uint8)

        def masks(self, t: int) -> dict[int, np.ndarray]:
            return {3: np.ones((24, 40 + t * self.reads["fit"]), np.bool_)}

    config = ClipConfig(num_frames=2, reverse=0)
    with pytest.raises(DataError, match=r"grow: the mask of object 3 on annotated frame 1 is 40x24, but .* 41x24"):
        draw_clip(Growing(name="grow", length=2), config, 0)
    with pytest.raises(DataError, match="grow: its frames differ in size: 40x24 and 41x24"):
        draw_clip(Growing(name="grow", length=2, reads=Counter(fit=1)), config, 0)


# ---- augmentation


def painted_clip(*boxes: tuple[int, int, int, int], frames: int = 2, size: tuple[int, int] = (60, 100)) -> Clip:
    """A clip of white boxes (top, left, bottom, right) on black, one object each."""
    masks = torch.zeros(len(boxes), frames, *size, dtype=torch.bool)
    for mask, (top, left, bottom, right) in zip(masks, boxes, strict=True):
        mask[:, top:bottom, left:right] = True
    painted = masks.any(0)[:, None].expand(-1, 3, -1, -1)
    return Clip(name="box", frames=painted.to(torch.uint8) * 255, masks=masks, seed=5)


def shares(frames: torch.Tensor) -> torch.Tensor:
    """Frames of 0 to 255 as shares of 1."""
    return frames / 255


def transformed(clip: Clip, augment: AugmentConfig, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the frames and masks of a transformed clip."""
    clip = transform_clip(clip, augment, size)
    return clip.frames, clip.masks


def test_without_augmentation_frames_are_resized() -> None:
    frames, masks = transformed(painted_clip((12, 20, 36, 60)), STILL, SIZE)
    assert frames.shape == (2, 3, SIZE, SIZE)
    assert frames.dtype == torch.uint8
    assert masks.shape == (1, 2, SIZE, SIZE)
    assert masks.dtype == torch.bool
    values = shares(frames)
    assert values.amin() == pytest.approx(0, abs=1e-6)
    assert values.amax() == pytest.approx(1, abs=1e-6)
    assert torch.equal(masks[0, 0], values[0, 0] >= 0.5)
    assert masks[0, 0].nonzero().amin(0).tolist() == [6, 6]  # 12 / 60 and 20 / 100 of 32 = 6.4
    assert masks[0, 0].nonzero().amax(0).tolist() == [18, 18]  # 36 / 60 and 60 / 100 of 32 = 19.2, exclusive
    same = [transformed(replace(painted_clip((12, 20, 36, 60)), seed=seed), STILL, SIZE) for seed in range(5)]
    for other_frames, other_masks in same:
        assert_close(other_frames, frames)
        assert torch.equal(other_masks, masks)


def test_frames_and_masks_move_alike() -> None:
    augment = replace(STILL, flip=0.5, degrees=25.0, shear=20.0, scale=[0.8, 1.2])
    seen = set()
    for seed in range(20):
        frames, masks = transformed(replace(painted_clip((10, 20, 40, 50)), seed=seed), augment, SIZE)
        values = shares(frames)
        assert torch.equal(frames[0], frames[1])
        assert torch.equal(masks[:, 0], masks[:, 1])
        inside, outside = values[0, 0][masks[0, 0]], values[0, 2][~masks[0, 0]]
        assert inside.amin() > 0.49
        assert outside.amax() < 0.51  # the blue of the fill, the mean, is 0.406
        assert masks[0, 0].sum() > 60
        seen.add(tuple(masks[0, 0].nonzero().float().mean(0).tolist()))
    assert len(seen) == 20


def test_what_comes_into_the_picture_is_the_mean_colour() -> None:
    augment = replace(STILL, degrees=25.0)
    clip = replace(painted_clip((20, 40, 40, 60)), seed=2)
    white = replace(clip, frames=torch.full_like(clip.frames, 255))
    frames, _ = transformed(white, augment, SIZE)
    corners = shares(frames[0])[:, [0, -1], [0, -1]]
    assert_close(corners, torch.tensor(MEAN)[:, None].expand(3, 2), rtol=0, atol=0.6 / 255)
    assert_close(shares(frames[0])[:, SIZE // 2, SIZE // 2], torch.ones(3))


def test_a_rotation_keeps_angles_whatever_the_aspect_ratio() -> None:
    augment = replace(STILL, degrees=25.0)
    clip = replace(painted_clip((10, 80, 30, 120), size=(40, 200)), seed=2)
    _, masks = transformed(clip, augment, 200)
    stretched = masks[0, 0].nonzero().double() * torch.tensor([40 / 200, 1.0])  # back to the aspect ratio of the clip
    centred = stretched - stretched.mean(0)
    spread = torch.linalg.eigvalsh(centred.T @ centred / len(centred) * 12).sqrt()
    assert spread.tolist() == pytest.approx([20, 40], rel=0.05)  # sides of the box


def test_objects_stay_in_the_picture_but_for_a_quarter_of_many() -> None:
    augment = replace(STILL, degrees=45.0, scale=[1.5, 3.0])
    corners = [(0, 0, 8, 8), (0, 92, 8, 100), (52, 0, 60, 8), (52, 92, 60, 100)]
    for seed in range(10):
        _, masks = transformed(replace(painted_clip(*corners[:3]), seed=seed), augment, 64)
        assert masks[:, 0].flatten(1).any(1).all()
    moved = replace(STILL, degrees=25.0, scale=[1.4, 1.5])
    boxes = [(20 + i, 40, 40, 60) for i in range(9)] + corners[:1]
    lost = [
        int((~transformed(replace(painted_clip(*boxes), seed=seed), moved, 64)[1][:, 0].flatten(1).any(1)).sum())
        for seed in range(5)
    ]
    assert lost == [1] * 5


def test_colours_change_per_clip_and_per_frame() -> None:
    clip = painted_clip((10, 20, 40, 50))
    grey = replace(clip, frames=torch.full_like(clip.frames, 128) // torch.tensor([1, 2, 4]).view(3, 1, 1))
    per_clip = shares(transformed(grey, replace(STILL, color=[0.3, 0.3, 0.3]), SIZE)[0])
    assert torch.equal(per_clip[0], per_clip[1])
    assert not torch.allclose(per_clip[0, :, 0, 0], torch.tensor([0.5, 0.25, 0.125]), atol=0.02)
    per_frame = shares(transformed(grey, replace(STILL, frame_color=[0.3, 0.3, 0.3]), SIZE)[0])
    assert not torch.allclose(per_frame[0], per_frame[1], atol=0.02)
    without_colour = shares(transformed(grey, replace(STILL, gray=1.0), SIZE)[0])
    assert_close(without_colour[:, 0], without_colour[:, 2], rtol=0, atol=1e-5)


def test_colours_are_rounded_once_and_stay_where_they_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a level at most is lost on the way to the device, and nothing without changes of colour."""
    exact = []
    recolour = transforms._recolour
    monkeypatch.setattr(transforms, "_recolour", lambda *given: (exact.append(recolour(*given)), exact[-1])[1])
    clip = replace(painted_clip((10, 20, 40, 50)), seed=3)
    for augment, bound in ((AugmentConfig(), 0.5001 / 255), (STILL, 1e-7)):
        exact.clear()
        frames, _ = transformed(clip, augment, SIZE)
        assert frames.unique().numel() > 5
        assert (shares(frames) - exact[0]).abs().amax() <= bound


def test_a_transform_depends_on_the_seed_alone_and_leaves_the_global_generator() -> None:
    clip = painted_clip((10, 20, 40, 50))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = transformed(clip, AugmentConfig(), SIZE)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = transformed(clip, AugmentConfig(), SIZE)
    other = transformed(replace(clip, seed=6), AugmentConfig(), SIZE)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


# ---- the plan


def make_plan(
    sizes: Mapping[str, int] | None = None, *, epoch: int = 0, world_size: int = 1, **configs: SourceConfig
) -> EpochPlan:
    configs = configs or {"a": SourceConfig(batch_size=2), "b": SourceConfig(batch_size=1, repeat=2.5)}
    return EpochPlan(sizes or {"a": 7, "b": 4}, configs, seed=3, epoch=epoch, world_size=world_size)


def test_an_epoch_draws_each_item_as_often_as_its_source_says() -> None:
    plan = make_plan()
    drawn: dict[str, list[int]] = {"a": [], "b": []}
    for step in plan:
        drawn[step.source] += [draw.index for draw in step.draws]
    assert len(plan) == 4 + 10
    counts = Counter(drawn["a"])
    assert sorted(counts.values()) == [1] * 6 + [2]
    assert drawn["a"][-1] == drawn["a"][0]  # what fills the last batch
    assert sorted(Counter(drawn["b"]).values()) == [2, 2, 3, 3]
    assert [step.source for step in plan] != sorted(step.source for step in plan)
    seeds = [seed for step in plan for seed in (step.step_seed, *(draw.seed for draw in step.draws))]
    assert len(set(seeds)) == len(seeds)


def test_a_plan_is_the_same_each_time_and_another_in_each_epoch() -> None:
    assert list(make_plan()) == list(make_plan())
    assert list(make_plan()) != list(make_plan(epoch=1))
    alone = [step.draws for step in make_plan({"a": 7}, a=SourceConfig(batch_size=2))]
    mixed = [step.draws for step in make_plan() if step.source == "a"]
    assert [[d.index for d in draws] for draws in alone] == [[d.index for d in draws] for draws in mixed]


def test_two_ranks_share_what_one_rank_draws_with_the_doubled_batch() -> None:
    one = make_plan({"a": 7}, a=SourceConfig(batch_size=2))
    two = make_plan({"a": 7}, a=SourceConfig(batch_size=1), world_size=2)
    assert list(one) == list(two)
    shares = [two.rank_share(two[0], rank) for rank in range(2)]
    assert shares[0].draws + shares[1].draws == one[0].draws
    assert shares[0].step_seed == shares[1].step_seed == one[0].step_seed
    with pytest.raises(ValueError, match="rank 2 of 2; allowed: 0 to 1"):
        two.rank_share(two[0], 2)


def test_a_source_smaller_than_a_batch_is_drawn_several_times() -> None:
    plan = make_plan({"a": 3}, a=SourceConfig(batch_size=4, repeat=0.1), world_size=2)
    assert len(plan) == 1
    assert len(plan[0].draws) == 8
    assert len({draw.index for draw in plan[0].draws}) == 1


def test_a_plan_without_items_says_so() -> None:
    with pytest.raises(NoDataError, match=r"nothing to draw \(a: 0 items\)"):
        make_plan({"a": 0}, a=SourceConfig())
    with pytest.raises(IndexError, match="step 14 of an epoch of 14 steps"):
        make_plan()[14]


def test_seeds_differ_by_every_key() -> None:
    seeds = [derive_seed(*keys) for keys in ((0,), (0, 0), (0, 0, 0), (0, 1), (1, 0), (1,), (2**63 - 1, 0))]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


# ---- the loader


def make_config(workers: int = 0, batch_size: int = 2, max_failures: int = 50) -> DataConfig:
    clip = ClipConfig(num_frames=3, max_objects=2)
    sources = {"a": SourceConfig(batch_size=batch_size, clip=clip), "b": SourceConfig(batch_size=batch_size)}
    sources["b"].clip.num_frames = 1
    return DataConfig(sources=sources, workers=workers, max_failures=max_failures)


def load(
    config: DataConfig,
    sources: Mapping[str, Source] | None = None,
    *,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
) -> list[LoadedBatch]:
    sources = sources or {"a": Videos("a"), "b": Videos("b", count=4)}
    sizes = {name: len(source) for name, source in sources.items()}
    plan = EpochPlan(sizes, config.sources, seed=3, epoch=0, world_size=world_size)
    loader = build_loader(
        sources,
        config,
        plan,
        rank=rank,
        image_size=SIZE,
        start_step=start_step,
    )
    batches = list(loader)
    assert len(batches) == len(loader) == len(plan) - start_step
    return batches


def assert_same(first: list[LoadedBatch], second: list[LoadedBatch]) -> None:
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert one.failures == other.failures
        assert (one.batch.names, one.batch.seeds) == (other.batch.names, other.batch.seeds)
        assert one.batch.step_seed == other.batch.step_seed
        for name in ("frames", "masks", "clip_of_object"):
            assert torch.equal(getattr(one.batch, name), getattr(other.batch, name))


def test_batches_are_whole() -> None:
    batches = load(make_config())
    assert Counter((item.batch.num_frames, len(item.batch.names)) for item in batches) == {(3, 2): 4, (1, 2): 2}
    for item in batches:
        batch = item.batch
        assert batch.frames.shape == (2, batch.num_frames, 3, SIZE, SIZE)
        assert batch.frames.dtype == torch.uint8  # a quarter of float32 on the way to the device
        assert batch.masks.shape == (len(batch.seeds), batch.num_frames, SIZE, SIZE)
        assert batch.masks[:, 0].flatten(1).any(1).all()
        assert sorted(set(batch.clip_of_object.tolist())) == [0, 1]
        assert len(set(batch.seeds)) == batch.num_objects == len(batch.clip_of_object)
        assert item.failures == ()
    assert {item.batch.num_objects for item in batches if item.batch.num_frames == 3} <= {2, 3, 4}


def test_loader_processes_change_nothing() -> None:
    sources = {"a": Videos("a", broken=(1, 4)), "b": Videos("b", count=4)}
    state = torch.get_rng_state()
    here = load(make_config(), sources)
    assert_same(here, load(make_config(workers=2), sources))
    assert any(item.failures for item in here)
    assert torch.equal(torch.get_rng_state(), state)


def test_ranks_share_the_batches_of_one() -> None:
    whole = load(make_config(batch_size=2))
    shares = [load(make_config(batch_size=1), rank=rank, world_size=2) for rank in range(2)]
    for one, first, second in zip(whole, *shares, strict=True):
        assert first.batch.names + second.batch.names == one.batch.names
        assert first.batch.seeds + second.batch.seeds == one.batch.seeds
        assert first.batch.step_seed == second.batch.step_seed == one.batch.step_seed
        assert torch.equal(torch.cat([first.batch.frames, second.batch.frames]), one.batch.frames)
        assert torch.equal(torch.cat([first.batch.masks, second.batch.masks]), one.batch.masks)


def test_a_resumed_epoch_goes_on_where_it_stopped() -> None:
    assert_same(load(make_config())[3:], load(make_config(), start_step=3))


def test_the_number_of_threads_changes_nothing() -> None:
    threads = torch.get_num_threads()
    try:
        batches = []
        for count in (1, 2):
            torch.set_num_threads(count)
            batches.append(load(make_config()))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert_same(*batches)


def test_without_augmentation_clips_are_those_that_were_drawn() -> None:
    batch = next(item.batch for item in load(replace(make_config(), augment=STILL)) if item.batch.num_frames == 3)
    areas = batch.masks[:, 0].sum((1, 2))
    assert set(areas.tolist()) <= {round(8 / 24 * SIZE) * round(8 / 40 * SIZE) + extra for extra in range(-11, 12)}
    assert shares(batch.frames[0, 0]).amin() > -1e-5


def test_items_that_fail_are_replaced_and_reported() -> None:
    broken = load(make_config(), {"a": Videos("a", broken=(0, 1, 2)), "b": Videos("b", count=4)})
    sound = load(make_config())
    failures = [failure for item in broken for failure in item.failures]
    assert len(failures) >= 3
    assert set(failures) <= {f"a: a/{index}.jpg is broken" for index in range(3)}
    for one, other in zip(broken, sound, strict=True):
        assert len(one.batch.names) == 2
        for name, expected in zip(one.batch.names, other.batch.names, strict=True):
            assert name not in {"a/0", "a/1", "a/2"}
            assert name == expected or one.failures


def test_objects_too_small_to_show_are_left_out() -> None:
    class Specks(Videos):
        def __getitem__(self, index: int) -> Squares:
            return Speck(name=f"{self.name}/{index}", seen={1: range(99), 2: range(99)}, size=(72, 120))

    class Speck(Squares):
        def masks(self, t: int) -> dict[int, np.ndarray]:
            masks = super().masks(t)
            masks[2][:] = False
            masks[2][5, 5] = True
            if self.name.endswith("0"):
                masks[1] = masks[2]
            return masks

    config = make_config()
    config.sources["b"].clip.max_objects = 2
    batches = load(replace(config, augment=STILL), {"a": Videos("a"), "b": Specks("b", count=2)})
    batch, failures = next((item.batch, item.failures) for item in batches if item.batch.names[0][0] == "b")
    assert batch.num_objects == 2
    assert set(failures) == {f"b: b/0: the drawn objects are too small to show at {SIZE} pixels"}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_of_which_nothing_can_be_read_ends_the_run_with_one_message(workers: int) -> None:
    sources = {"a": Videos("a", broken=tuple(range(7))), "b": Videos("b", count=4)}
    with pytest.raises(NoDataError) as raised:
        load(make_config(workers, max_failures=5), sources)
    start, _, last = str(raised.value).partition(" (data.max_failures = 5); the last one: ")
    assert start == "data.sources.a: 5 items in a row cannot be used"
    assert last.startswith("a: a/")
    assert last.endswith(".jpg is broken")


ANYTHING = [ZeroDivisionError, OverflowError, RecursionError, AssertionError, StopIteration, struct.error, VideoError]


@pytest.mark.parametrize("error", ANYTHING)
def test_whatever_reading_raises_is_a_failure_of_that_item(error: type[Exception]) -> None:
    sources = {"a": Videos("a", broken=(0, 1, 2), error=error), "b": Videos("b", count=4)}
    failures = {failure for item in load(make_config(), sources) for failure in item.failures}
    assert failures
    for failure in failures:
        named = "" if error is VideoError else error.__name__
        assert re.fullmatch(rf"a: .*{named}.*a/\d\.jpg is broken.*", failure)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_always_fails_names_the_last_error(workers: int) -> None:
    sources = {"a": Videos("a", broken=tuple(range(7)), error=ZeroDivisionError), "b": Videos("b", count=4)}
    with pytest.raises(
        NoDataError, match=r"5 items in a row .*item \d cannot be read \(ZeroDivisionError: a/\d\.jpg is"
    ):
        load(make_config(workers, max_failures=5), sources)


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_too_little_memory_and_interrupts_are_nobodys_failure(error: type[Exception]) -> None:
    sources = {"a": Videos("a", broken=tuple(range(7)), error=error), "b": Videos("b", count=4)}
    with pytest.raises(error, match=r"a/\d\.jpg is broken"):
        load(make_config(), sources)


@pytest.mark.parametrize("moving", [False, True])
def test_broken_annotations_are_counted_beside_the_item_that_is_used(tmp_path: Path, moving: bool) -> None:
    for number in (1, 2):
        write_image(tmp_path / f"{number}.jpg", value=60 * number)
        objects = [{"id": 1, "segmentation": rle(SQUARE)}, {"id": 2, "segmentation": []}]
        write_json(tmp_path / f"{number}.json", {"annotations": objects})
    clip = ClipConfig(num_frames=2, moving_stills=moving)
    config = DataConfig(sources={"a": SourceConfig(kind="sa1b", images=str(tmp_path), clip=clip)}, workers=0)
    loaded = load(config, open_sources(config, 0))
    told = [problem for item in loaded for problem in item.problems]
    assert len(told) == 2
    for problem in told:
        assert re.match(r"a: object 2 in .*[12]\.json: the segmentation must be", problem)
    assert not any(item.failures for item in loaded)


def test_sources_open_from_a_config_and_stills_move(tmp_path: Path) -> None:
    for name in ("one", "two"):
        for folder in ("JPEGImages", "Annotations"):
            (tmp_path / folder / name).mkdir(parents=True)
        image, index = Squares(size=(48, 64)).image(99), np.zeros((48, 64), np.uint8)
        image[10:20, 20:30] = index[10:20, 20:30] = 7
        Image.fromarray(image).save(tmp_path / "JPEGImages" / name / "0.jpg")
        Image.fromarray(index).save(tmp_path / "Annotations" / name / "0.png")
    stills = SourceConfig(kind="palette", images=str(tmp_path / "JPEGImages"), clip=ClipConfig(num_frames=3))
    moving = replace(stills, clip=replace(stills.clip, moving_stills=True))
    config = DataConfig(sources={"stills": stills, "moving": moving})
    first, second = (open_sources(config, seed) for seed in (0, 1))
    assert {name: (len(source), len(source[0])) for name, source in first.items()} == {
        "stills": (2, 1),
        "moving": (2, 3),
    }
    assert np.array_equal(first["stills"][0].image(0), second["stills"][0].image(0))
    assert not np.array_equal(first["moving"][0].image(1), second["moving"][0].image(1))
