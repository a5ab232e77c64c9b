"""The call sequence of SAM 2's video notebook, by keyword, and the README's example."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.checkpoint import save_checkpoint
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.i2vpp import I2VPP
from media import moving_disc, write_video
from models import make_predictor, parity_weights

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_predictor()


@pytest.fixture
def video_dir(tmp_path: Path) -> str:
    for i, frame in enumerate(moving_disc(6, 90, 120)[0]):
        Image.fromarray(frame).save(tmp_path / f"{i:05d}.jpg")
    return str(tmp_path)


def test_the_calls_of_sam2s_notebook(predictor: I2VPPVideoPredictor, video_dir: str) -> None:
    inference_state = predictor.init_state(video_path=video_dir)
    assert (inference_state["video_height"], inference_state["video_width"]) == (90, 120)
    assert (inference_state["num_frames"], inference_state["obj_ids"]) == (6, [])
    with pytest.raises(KeyError, match="answers to obj_ids, num_frames"):
        inference_state["images"]
    predictor.reset_state(inference_state)
    points = np.array([[21, 37], [25, 22]], dtype=np.float32)
    labels = np.array([1, 1], np.int32)
    for count in (1, 2):
        _, out_obj_ids, out_mask_logits = predictor.add_new_points_or_box(
            inference_state=inference_state, frame_idx=0, obj_id=1, points=points[:count], labels=labels[:count]
        )
    assert (out_mask_logits[0] > 0.0).cpu().numpy().shape == (1, 90, 120)

    video_segments = {}
    for out_frame_idx, out_obj_ids, out_mask_logits in predictor.propagate_in_video(inference_state):
        video_segments[out_frame_idx] = {
            out_obj_id: (out_mask_logits[i] > 0.0).cpu().numpy() for i, out_obj_id in enumerate(out_obj_ids)
        }
    assert sorted(video_segments) == list(range(6))
    assert set(video_segments[3]) == {1}

    predictor.add_new_points_or_box(
        inference_state=inference_state,
        frame_idx=3,
        obj_id=1,
        points=np.array([[82, 41]], dtype=np.float32),
        labels=np.array([0], np.int32),
        clear_old_points=False,
    )
    assert len(list(predictor.propagate_in_video(inference_state))) == 6

    predictor.reset_state(inference_state)
    box = np.array([30, 0, 50, 50], dtype=np.float32)
    predictor.add_new_points_or_box(inference_state=inference_state, frame_idx=0, obj_id=4, box=box)
    frame_idx, obj_ids, masks = predictor.add_new_points_or_box(
        inference_state=inference_state, frame_idx=0, obj_id=4, points=points, labels=labels, box=box
    )
    assert (frame_idx, obj_ids, masks.shape) == (0, [4], (1, 1, 90, 120))
    mask = (masks[0, 0] > 0).cpu().numpy()
    predictor.add_new_mask(inference_state=inference_state, frame_idx=1, obj_id=5, mask=mask)
    predictor.clear_all_prompts_in_frame(inference_state=inference_state, frame_idx=1, obj_id=5)
    predictor.remove_object(inference_state=inference_state, obj_id=5, strict=False, need_output=True)
    reverse = predictor.propagate_in_video(
        inference_state=inference_state, start_frame_idx=4, max_frame_num_to_track=3, reverse=True
    )
    assert [frame_idx for frame_idx, _, _ in reverse] == [4, 3, 2, 1]


def test_old_name_and_tuple_access(predictor: I2VPPVideoPredictor, video_dir: str) -> None:
    with predictor.init_state(video_dir) as state:
        result = predictor.add_new_points(state, 0, 1, points=[[5, 5]], labels=[1])
        assert len(result) == 3
        assert result[1] == [1]
        assert result[2] is result.masks


def readme_example() -> str:
    """The first Python block of the README."""
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return blocks[0]


@pytest.mark.slow
def test_the_readmes_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up weights in the published form, and a made-up clip; from another folder."""
    model = I2VPP()
    model.load_state_dict(parity_weights())
    (tmp_path / "checkpoints").mkdir()
    torch.save({"model": model.state_dict()}, tmp_path / "checkpoints" / "sam-i2vpp_32gpu.pt")
    write_video(tmp_path / "video.mp4", moving_disc(3, 400, 300)[0])
    monkeypatch.chdir(tmp_path)
    code = readme_example()
    assert len(code.strip().splitlines()) < 15
    scope: dict = {}
    exec(compile(code, "README.md", "exec"), scope)
    assert scope["frame_idx"] == 2
    assert scope["object_ids"] == [1]
    assert scope["masks"].shape == (1, 1, 400, 300)


@pytest.mark.parametrize("config", [
    "i2vpp-256", "i2vpp-256.yaml", "configs/i2vpp-256.yaml", "./i2vpp/configs/i2vpp-256.yaml", "own.yaml",
])  # fmt: skip
def test_configs_are_found_from_anywhere(config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(REPO / "i2vpp" / "configs" / "i2vpp-256.yaml", tmp_path / "own.yaml")
    monkeypatch.chdir(tmp_path)
    save_checkpoint(make_predictor(image_size=256).model, "own.pt", image_size=256)
    predictor = build_i2vpp_video_predictor(config, "own.pt", device="cpu")
    assert predictor.image_size == 256
    assert torch.equal(predictor.model.no_mem_embed, parity_weights()["no_mem_embed"])


def test_build_arguments() -> None:
    plain = make_predictor(apply_postprocessing=False).model.config
    assert (plain.fill_hole_area, plain.dynamic_multimask_via_stability) == (0, False)
    assert not plain.binarize_mask_from_pts_for_mem_enc
    assert make_predictor("++model.fill_hole_area=3").model.config.fill_hole_area == 3
    assert build_i2vpp_video_predictor("i2vpp-256", device="cpu", mode="train").model.training
    with pytest.raises(ValueError, match="mode must be one of eval, train; got 'test'"):
        build_i2vpp_video_predictor("i2vpp-256", mode="test")
    with pytest.raises(ValueError, match="dtype must be one of float32, bfloat16, float16; got 'int8'"):
        make_predictor(dtype="int8")
    assert make_predictor(dtype="bfloat16").dtype == torch.bfloat16
    if not torch.cuda.is_available():
        assert make_predictor().dtype == torch.float32
