"""Two loops, one set of verbs: the training rollout gives the masks that the predictor gives."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms.v2.functional import normalize

from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.memory.selection import RecentFrames
from i2vpp.session.frames import MEAN, STD, clip_indices
from i2vpp.structures import Prompt
from models import make_predictor
from training.config import OptimizerConfig, UserConfig
from training.dataset.clips import ClipBatch
from training.model.objective import Objective
from training.model.rollout import ClipRollout, Rollout
from training.model.simulated_user import PromptPlan
from training.optimizer import train_mode

SIZE = 64
FRAMES = 5


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    tracker = make_predictor()
    return I2VPPVideoPredictor(tracker.model, selector=RecentFrames(max_pointers=FRAMES))


@pytest.fixture(scope="module")
def video() -> np.ndarray:
    rng = np.random.default_rng(3)
    frames = rng.integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    for t in range(FRAMES):
        frames[t, 10 + 3 * t : 34 + 3 * t, 12:40] = (220, 40, 30)
    return frames


def batch_of(video: np.ndarray, objects: int = 1) -> ClipBatch:
    masks = torch.zeros(objects, FRAMES, SIZE, SIZE, dtype=torch.bool)
    for i in range(objects):
        for t in range(FRAMES):
            masks[i, t, 10 + 3 * t : 34 + 3 * t, 12 + 4 * i : 40] = True
    return ClipBatch(
        names=("made up",),
        frames=torch.from_numpy(video).permute(0, 3, 1, 2)[None],
        masks=masks,
        clip_of_object=torch.zeros(objects, dtype=torch.int64),
        seeds=tuple(range(objects)),
        step_seed=0,
    )


def test_frames_are_normalised_on_the_device_as_they_were_in_the_loader(
    predictor: I2VPPVideoPredictor, video: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit what torchvision makes of them, and the batch stays as it is."""
    batch, seen = batch_of(video), []
    encode = predictor.model.encode
    monkeypatch.setattr(predictor.model, "encode", lambda clip: (seen.append(clip), encode(clip))[1])
    before = batch.frames.clone()
    ClipRollout(predictor.model, UserConfig()).encode(batch)
    expected = normalize(batch.frames[0].float() / 255, list(MEAN), list(STD))
    for t, clip in enumerate(seen[0]):
        for part, i in zip(clip.unbind(1), clip_indices(t), strict=True):
            assert torch.equal(part, expected[i])
    assert torch.equal(batch.frames, before)
    assert batch.frames.dtype == torch.uint8


def play(predictor: I2VPPVideoPredictor, batch: ClipBatch, plan: PromptPlan, **options: bool) -> Rollout:
    rollout = ClipRollout(predictor.model, UserConfig(corrections=1), **options)
    with torch.no_grad():
        return rollout(batch, plan)


def at_video_size(logits: Tensor) -> Tensor:
    return F.interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("kind", ["mask", "click", "box"])
@pytest.mark.parametrize("prompted", [(0,), (0, 3)])
def test_rollout_and_predictor_give_the_same_masks(
    predictor: I2VPPVideoPredictor, video: np.ndarray, kind: str, prompted: tuple[int, ...]
) -> None:
    batch = batch_of(video)
    rollout = play(predictor, batch, PromptPlan(kind=kind, prompted=prompted, corrected=()))
    with predictor.init_state(list(video)) as state:
        for t in prompted:
            _, coords, labels = rollout.frames[t].prompts[0]
            if kind == "mask":
                predictor.add_new_mask(state, t, 1, batch.masks[0, t])
            elif kind == "box":
                predictor.add_new_points_or_box(state, t, 1, box=coords.flatten())
            else:
                predictor.add_new_points_or_box(state, t, 1, points=coords[0], labels=labels[0])
        found = {t: masks for t, _, masks in predictor.propagate_in_video(state)}
    assert sorted(found) == list(range(FRAMES))
    for t, masks in found.items():
        if kind == "mask" and t in prompted:  # small for the grid of 16 x 16 logits: it is shown as it was drawn
            assert torch.equal(masks[0, 0] > 0, batch.masks[0, t])
        else:
            torch.testing.assert_close(at_video_size(rollout.frames[t].logits), masks, rtol=1e-4, atol=1e-3)
    assert any((masks > 0).any() for masks in found.values())


def test_rollout_and_predictor_remember_thin_masks_alike(predictor: I2VPPVideoPredictor, video: np.ndarray) -> None:
    batch = batch_of(video)
    batch.masks[0, 0] = False
    batch.masks[0, 0, 20:22, 5:60] = True  # half a cell of the mask logits
    rollout = play(predictor, batch, PromptPlan(kind="mask", prompted=(0,), corrected=()))
    with predictor.init_state(list(video)) as state:
        predictor.add_new_mask(state, 0, 1, batch.masks[0, 0])
        found = {t: masks for t, _, masks in predictor.propagate_in_video(state)}
    assert (rollout.frames[0].logits > 0).any(), "it is not lost on the grid"
    for t in range(1, FRAMES):
        torch.testing.assert_close(at_video_size(rollout.frames[t].logits), found[t], rtol=1e-4, atol=1e-3)


def test_corrections_on_a_tracked_frame_are_the_predictors(predictor: I2VPPVideoPredictor, video: np.ndarray) -> None:
    batch = batch_of(video)
    rollout = play(predictor, batch, PromptPlan(kind="box", prompted=(0,), corrected=(0, 2)))
    first, fixed = rollout.frames[0].prompts, rollout.frames[2].prompts
    with predictor.init_state(list(video)) as state:
        predictor.add_new_points_or_box(state, 0, 1, box=first[0][1].flatten())
        predictor.add_new_points_or_box(
            state, 0, 1, points=first[1][1][0], labels=first[1][2][0], clear_old_points=False
        )
        for _ in predictor.propagate_in_video(state, max_frame_num_to_track=2):
            pass
        predictor.add_new_points_or_box(state, 2, 1, points=fixed[0][1][0], labels=fixed[0][2][0])
        found = {t: masks for t, _, masks in predictor.propagate_in_video(state, start_frame_idx=2)}
    for t, masks in found.items():
        torch.testing.assert_close(at_video_size(rollout.frames[t].logits), masks, rtol=1e-4, atol=1e-3)
    assert [len(frame.steps) for frame in rollout.frames] == [2, 1, 2, 1, 1]


def test_ignored_pixels_are_not_clicked_on_and_left_out_of_the_loss(
    predictor: I2VPPVideoPredictor, video: np.ndarray
) -> None:
    """The predictor's weights are random, so that mistakes are everywhere; the object ends at column 40."""
    plain = batch_of(video)
    ignored = torch.zeros_like(plain.masks)
    ignored[..., 40:] = True
    rollout = ClipRollout(predictor.model, UserConfig(mask=0, box=0, corrections=3, from_object=0))
    objective = Objective(rollout)
    columns, losses = [], []
    for batch in (plain, replace(plain, ignored=ignored)):
        with torch.no_grad():
            losses.append(objective(batch).mask.item())
        columns.append([prompt[1][0, 0, 0].item() for frame in objective.played for prompt in frame.prompts])
    assert max(columns[0]) >= 40 > max(columns[1])
    assert len(columns[0]) == len(columns[1]) >= 4
    assert losses[0] != losses[1]


def test_objects_of_one_clip_do_not_see_each_other(predictor: I2VPPVideoPredictor, video: np.ndarray) -> None:
    plan = PromptPlan(kind="click", prompted=(0,), corrected=(0,))
    pair = batch_of(video, objects=2)
    together = play(predictor, pair, plan)
    for i in range(2):
        alone = replace(pair, masks=pair.masks[i : i + 1], clip_of_object=torch.zeros(1, dtype=torch.int64), seeds=(i,))
        for a, b in zip(together.frames, play(predictor, alone, plan).frames, strict=True):
            torch.testing.assert_close(a.logits[i : i + 1], b.logits, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("float32", [True, False])
def test_the_decoder_computes_in_float32_unless_told_otherwise(
    predictor: I2VPPVideoPredictor, monkeypatch: pytest.MonkeyPatch, float32: bool
) -> None:
    monkeypatch.setattr(predictor.model, "decodes_in_float32", float32)
    features = predictor.model.encode(torch.zeros(1, 3, 3, SIZE, SIZE))
    conditioned = predictor.model.condition_on_memory(features, None)
    prompt = Prompt(coords=torch.tensor([[[20.0, 20.0]]]), labels=torch.tensor([[1]]))
    with torch.no_grad():
        expected = predictor.model.decode(conditioned, prompt).candidates
        with torch.autocast("cpu", torch.bfloat16):
            masks = predictor.model.decode(conditioned, prompt).candidates
    assert torch.equal(masks, expected) == float32
    torch.testing.assert_close(masks.float(), expected, rtol=0.1, atol=0.1 * float(expected.abs().max()))


def test_recomputed_activations_change_neither_masks_nor_gradients(
    predictor: I2VPPVideoPredictor, video: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, plan = batch_of(video), PromptPlan(kind="click", prompted=(0,), corrected=(0, 2))
    rollout = ClipRollout(predictor.model, UserConfig(corrections=1), recompute=True)
    parameters = [predictor.model.no_mem_embed, predictor.model.image_encoder.trunk_image.neck[0].weight,
                  predictor.model.memory_attention.layers[0].linear1.weight]  # fmt: skip

    def gradients() -> tuple[Tensor, list[Tensor]]:
        played = rollout(batch, plan)
        loss = sum(step.prediction.candidates.sigmoid().mean() for steps in played.steps for step in steps)
        assert isinstance(loss, Tensor)
        return loss, list(torch.autograd.grad(loss, parameters))

    recomputed = gradients()
    monkeypatch.setattr(rollout, "recomputed", lambda function, *arguments, **options: function(*arguments, **options))
    kept = gradients()
    assert torch.equal(kept[0], recomputed[0])
    for a, b in zip(kept[1], recomputed[1], strict=True):
        assert a.norm() > 0
        assert (a - b).norm() < 1e-5 * a.norm()


@pytest.fixture
def device_generator(monkeypatch: pytest.MonkeyPatch) -> torch.Generator:
    """Pretend that the network lies on a device with a random state of its own, from which dropout draws.

    The CPU's random state is left out of the play, because `checkpoint` always restores that one. As on CUDA, it saves
    the state of the device only if one of its positional arguments is, or holds in a list, tuple or dict, a tensor.
    """
    generator = torch.Generator()

    def device_states(*arguments: object) -> tuple[list[int], list[Tensor]]:
        there = any(isinstance(leaf, Tensor) for leaf in torch.utils._pytree.tree_leaves(arguments))
        return ([0], [generator.get_state()]) if there else ([], [])

    def drop(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        return x * (torch.rand(x.shape, generator=generator) >= p) / (1 - p) if training and p else x

    def attend(*tensors: Tensor, dropout_p: float = 0.0, **options: Tensor) -> Tensor:
        return drop(attention(*tensors, **options), dropout_p)

    attention = F.scaled_dot_product_attention
    monkeypatch.setattr(torch.utils.checkpoint, "_infer_device_type", lambda *_: "cuda")
    monkeypatch.setattr(torch.utils.checkpoint, "get_device_states", device_states)
    monkeypatch.setattr(torch.utils.checkpoint, "set_device_states",
                        lambda _, states, **__: [generator.set_state(state) for state in states])  # fmt: skip
    monkeypatch.setattr(torch.cuda, "_initialized", True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda *_: generator.get_state())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, *_: generator.set_state(state))
    monkeypatch.setattr(F, "dropout", drop)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    return generator


def test_recomputed_activations_draw_the_dropout_masks_of_a_device_again(
    predictor: I2VPPVideoPredictor,
    video: np.ndarray,
    device_generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, batch = predictor.model, batch_of(video)
    plan = PromptPlan(kind="click", prompted=(0,), corrected=(0, 2))
    parameters = [model.no_mem_embed, model.image_encoder.trunk_image.neck[0].weight,
                  *model.memory_attention.parameters()]  # fmt: skip

    rollout = ClipRollout(model, UserConfig(corrections=1), recompute=True)

    def gradients() -> tuple[Tensor, list[Tensor]]:
        device_generator.manual_seed(5)
        fresh = device_generator.get_state()
        played = rollout(batch, plan)
        assert not device_generator.get_state().equal(fresh), "dropout drew from the device"
        loss = sum(step.prediction.candidates.sigmoid().mean() for steps in played.steps for step in steps)
        assert isinstance(loss, Tensor)
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return loss, [gradient for gradient in found if gradient is not None]

    train_mode(model, OptimizerConfig(dropout=True))
    try:
        recomputed = gradients()
        monkeypatch.setattr(rollout, "recomputed", lambda function, *given, **options: function(*given, **options))
        kept = gradients()
    finally:
        model.eval()
    assert torch.equal(kept[0], recomputed[0])
    assert len(kept[1]) == len(recomputed[1]) > 60
    for a, b in zip(kept[1], recomputed[1], strict=True):
        assert (a - b).norm() <= 1e-4 * a.norm()


def test_frames_are_encoded_alike_one_by_one_and_together(predictor: I2VPPVideoPredictor, video: np.ndarray) -> None:
    """One by one is how activations are recomputed."""
    batch = batch_of(video)
    rollouts = [ClipRollout(predictor.model, UserConfig(), recompute=single) for single in (False, True)]
    together, single = (rollout.encode(batch) for rollout in rollouts)
    for a, b in zip(together, single, strict=True):
        torch.testing.assert_close(a.embedding, b.embedding, rtol=1e-5, atol=1e-5)
        assert torch.equal(a.position, b.position)


def test_auxiliary_masks_come_where_memory_is_read(predictor: I2VPPVideoPredictor, video: np.ndarray) -> None:
    rollout = play(predictor, batch_of(video), PromptPlan(kind="click", prompted=(0,), corrected=(0, 1)))
    has = [[step.auxiliary is not None for step in frame.steps] for frame in rollout.frames]
    assert has == [[False, False], [True, False], [True], [True], [True]]
    auxiliary = rollout.frames[2].steps[0].auxiliary
    assert auxiliary is not None
    assert auxiliary.shape == (1, 4, SIZE, SIZE)
