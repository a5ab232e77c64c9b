"""The call sequence of SAM 2's video notebook, by keyword, and the README's example."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp import sam2_module
from i2vpp.build_i2vpp import build_i2vpp, build_i2vpp_video_predictor
from i2vpp.checkpoint import save_checkpoint
from i2vpp.config import CONSTANTS
from i2vpp.errors import ConfigError, I2VPPError, SessionError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.memory.selection import RecentFrames
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session import sam2_keys
from media import moving_disc, write_video
from models import SIDE, make_predictor, parity_weights

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


def first_example(page: str) -> str:
    """The first Python block of a page."""
    return re.findall(r"```python\n(.*?)```", (REPO / page).read_text(encoding="utf-8"), re.DOTALL)[0]


def run_example(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the first Python block of a page in a folder with a made-up clip, and return its variables."""
    write_video(folder / "video.mp4", moving_disc(3, 400, 300)[0])
    monkeypatch.chdir(folder)
    code, scope = first_example(page), {}
    exec(compile(code, page, "exec"), scope)
    assert scope["frame_idx"] == 2
    assert scope["object_ids"] == [1]
    assert scope["masks"].shape == (1, 1, 400, 300)
    return scope


@pytest.mark.slow
def test_the_readmes_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_example("README.md", tmp_path, monkeypatch)
    assert len(first_example("README.md").strip().splitlines()) < 10


@pytest.mark.slow
def test_the_published_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With made-up weights in the published form; from another folder."""
    model = I2VPP()
    model.load_state_dict(parity_weights())
    (tmp_path / "checkpoints").mkdir()
    torch.save({"model": model.state_dict()}, tmp_path / "checkpoints" / "sam-i2vpp_32gpu.pt")
    assert run_example("docs/sam2.md", tmp_path, monkeypatch)["predictor"].image_size == 1024


def test_the_guides_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").mkdir()
    save_checkpoint(make_predictor().model, tmp_path / "checkpoints" / "sam-i2vpp_32gpu.pt", image_size=SIDE)
    assert run_example("docs/python.md", tmp_path, monkeypatch)["predictor"].image_size == SIDE
    with Image.open(tmp_path / "prompt.png") as picture:
        assert picture.size == (300, 400)


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
    assert make_predictor(dtype="bfloat16").dtype == torch.bfloat16
    if not torch.cuda.is_available():
        assert make_predictor().dtype == torch.float32


@pytest.mark.parametrize(("argument", "value", "message"), [
    ("mode", "test", "unknown mode 'test'; did you mean 'eval'?"),
    ("mode", "training", "unknown mode 'training'; did you mean 'train'?"),
    ("mode", None, "unknown mode None; allowed: eval, train"),
    ("device", "gpu", "unknown device 'gpu'; did you mean 'cuda'?"),
    ("device", "gpu:1", "unknown device 'gpu:1'; did you mean 'cuda'?"),
    ("device", "CPU", "unknown device 'CPU'; did you mean 'cpu'?"),
    ("device", "meta", "unknown device 'meta'; allowed: cpu, cuda, mps"),
    ("device", [], "unknown device []; allowed: cpu, cuda, mps"),
    ("device", "cuda:99", "this machine has no device 'cuda:99' that PyTorch can use"),
    ("device", 99, "this machine has no device 'cuda:99' that PyTorch can use"),
    ("dtype", "fp16", "unknown dtype 'fp16'; did you mean 'float16'?"),
    ("dtype", "half", "unknown dtype 'half'; did you mean 'float16'?"),
    ("dtype", "bf16", "unknown dtype 'bf16'; did you mean 'bfloat16'?"),
    ("dtype", torch.float64, "unknown dtype torch.float64; did you mean 'float32'?"),
    ("dtype", np.float32, "unknown dtype <class 'numpy.float32'>; did you mean 'float32'?"),
    ("dtype", "int8", "unknown dtype 'int8'; allowed: float32, bfloat16, float16"),
    ("config_file", 512, "config_file must be a name or a path, such as 'i2vpp-512'; got 512"),
    ("hydra_overrides_extra", [512], "an override must be text such as 'model.image_size=512'; got 512"),
    ("selector", "top", "selector must be an object with a method `select`"),
])  # fmt: skip
def test_wrong_build_arguments(argument: str, value: Any, message: str) -> None:
    arguments = {"config_file": "i2vpp-256", "hydra_overrides_extra": ["model.image_size=64"], "device": "cpu"}
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        build_i2vpp_video_predictor(**{**arguments, argument: value})


def test_no_overrides_may_be_none() -> None:
    assert build_i2vpp("i2vpp-256", device="cpu", hydra_overrides_extra=None).image_size == 256


# ---- the predictor as a torch.nn.Module


def test_asking_for_what_the_predictor_is_does_nothing(predictor: I2VPPVideoPredictor) -> None:
    assert predictor.to("cpu").eval().float().train(False).cpu().to(torch.float32) is predictor
    assert predictor.to(device=torch.device("cpu"), dtype=torch.float32, non_blocking=True) is predictor
    assert predictor.to(torch.zeros(1)) is predictor
    assert not predictor.training
    assert list(predictor.state_dict()) == list(predictor.model.state_dict())
    assert sum(p.numel() for p in predictor.parameters()) == sum(p.numel() for p in predictor.model.parameters())
    for name in sam2_module.OF_THE_NETWORK:
        assert callable(getattr(predictor, name))


@pytest.mark.parametrize(("ask", "message"), [
    (lambda p: p.half(), 'stays as it was built, float32 on cpu; build it with .*dtype="float16"'),
    (lambda p: p.bfloat16(), 'dtype="bfloat16"'),
    (lambda p: p.cuda(), 'device="cuda"'),
    (lambda p: p.cuda(1), 'device="cuda:1"'),
    (lambda p: p.to("cuda"), 'device="cuda"'),
    (lambda p: p.to("gpu"), "unknown device 'gpu'; did you mean 'cuda'"),
    (lambda p: p.to("cpu", torch.float16), 'dtype="float16"'),
    (lambda p: p.train(), 'built in eval mode; build it with .*mode="train"'),
    (lambda p: p.image_encoder, r"use predictor\.model\.image_encoder"),
    (lambda p: p.fill_hole_area, r"use predictor\.model\.config\.fill_hole_area"),
    (lambda p: p.load_state_dict, r"use build_i2vpp_video_predictor\(config_file, ckpt_path\)"),
    (lambda p: p.hidden_dim, r"use i2vpp\.modeling\.i2vpp\.WIDTH"),
    (lambda p: p.num_maskmem_global, r"use predictor\.model\.config\.selection\.num_global"),
    (lambda p: p._obj_id_to_idx(None, 1), r"use inference_state\.obj_ids\.index"),
])  # fmt: skip
def test_asking_for_anything_else_names_what_replaces_it(
    predictor: I2VPPVideoPredictor, ask: Callable[[I2VPPVideoPredictor], Any], message: str
) -> None:
    with pytest.raises(I2VPPError, match=message):
        ask(predictor)


def test_unknown_attributes_are_ordinary_errors(predictor: I2VPPVideoPredictor) -> None:
    assert not hasattr(predictor, "nonsense")
    assert not hasattr(predictor, "image_encoder")
    with pytest.raises(AttributeError, match="object has no attribute 'nonsense'"):
        predictor.nonsense  # noqa: B018
    with pytest.raises(AttributeError, match="model"):
        I2VPPVideoPredictor.__new__(I2VPPVideoPredictor).model  # noqa: B018


@pytest.mark.parametrize(("name", "value", "message"), [
    ("fill_hole_area", 0, r'build it with .*hydra_overrides_extra=\["model\.fill_hole_area=0"\]'),
    ("binarize_mask_from_pts_for_mem_enc", False, r'"model\.binarize_mask_from_pts_for_mem_enc=false"'),
    ("image_size", 512, r'"model\.image_size=512"'),
    ("num_maskmem_global", 3, r'"model\.selection\.num_global=3"'),
    ("non_overlap_masks", True, "it is fixed at False in .*masks may overlap"),
    ("add_all_frames_to_correct_as_cond", False, "it is fixed at True in .*conditioning frame"),
    ("num_maskmem", 6, "it is fixed at 7 in "),
    ("image_encoder", None, r"use predictor\.model\.image_encoder"),
    ("no_mem_embed", None, r"use predictor\.model\.no_mem_embed"),
    ("hidden_dim", 128, r"use i2vpp\.modeling\.i2vpp\.WIDTH"),
])  # fmt: skip
def test_setting_what_nothing_reads_is_an_error(
    predictor: I2VPPVideoPredictor, name: str, value: Any, message: str
) -> None:
    with pytest.raises(sam2_module.ReplacedError, match=f"^setting '{name}' would have no effect.*{message}"):
        setattr(predictor, name, value)
    assert name not in vars(predictor)


def test_settings_may_be_set_to_what_they_are_and_other_attributes_to_anything() -> None:
    predictor = make_predictor()
    before = set(vars(predictor))
    for name, value in (("fill_hole_area", 8), ("non_overlap_masks", False), ("image_size", SIDE)):
        setattr(predictor, name, value)
    assert set(vars(predictor)) == before
    predictor.video_name = "dog"  # type: ignore[attr-defined]
    predictor.selector = selector = RecentFrames()
    with predictor.init_state(moving_disc(2, 90, 120)[0]) as state:
        assert state.selector is selector
    assert predictor.video_name == "dog"  # type: ignore[attr-defined]


def test_constants_of_sam2_are_read(predictor: I2VPPVideoPredictor) -> None:
    """In the network that runs, too: its slots of memory are as many as `num_maskmem`."""
    values: Any = predictor
    assert values.num_maskmem == len(predictor.model.maskmem_tpos_enc)
    assert (values.non_overlap_masks, values.clear_non_cond_mem_around_input) == (False, False)
    assert (values.add_all_frames_to_correct_as_cond, values.max_cond_frames_in_attn) == (True, -1)
    assert values.memory_temporal_stride_for_eval == 1


def test_a_predictor_in_training_mode() -> None:
    predictor = build_i2vpp_video_predictor(
        "i2vpp-256", device="cpu", mode="train", hydra_overrides_extra=["model.image_size=64"]
    )
    assert predictor.train() is predictor
    assert predictor.training
    assert not predictor.eval().training


# ---- the session as a dict


def test_session_keys(predictor: I2VPPVideoPredictor, video_dir: str) -> None:
    with predictor.init_state(video_dir, offload_state_to_cpu=True) as state:
        predictor.add_new_points_or_box(state, 2, 9, points=[[60, 45]], labels=[1], box=[10, 10, 100, 80])
        predictor.add_new_mask(state, 0, 4, np.ones((90, 120), bool))
        assert (state["obj_ids"], state["obj_id_to_idx"], state["obj_idx_to_id"]) == (
            [9, 4],
            {9: 0, 4: 1},
            {0: 9, 1: 4},
        )
        assert (state["num_frames"], state["video_height"], state["video_width"]) == (6, 90, 120)
        assert state["device"] == state["storage_device"] == torch.device("cpu")
        assert (state["offload_video_to_cpu"], state["offload_state_to_cpu"]) == (True, True)
        assert state["tracking_has_started"] is False
        inputs = state["point_inputs_per_obj"]
        assert (sorted(inputs), sorted(inputs[0]), inputs[1]) == ([0, 1], [2], {})
        assert inputs[0][2]["point_labels"].tolist() == [[2, 3, 1]]
        assert inputs[0][2]["point_coords"].shape == (1, 3, 2)
        next(predictor.propagate_in_video(state, progress=False))
        assert state["tracking_has_started"] is True
        assert set(state.keys()) == set(state) == set(dict(state)) == set(sam2_keys.ANSWERED)
        assert "obj_ids" in state
        assert "images" not in state
        assert state.get("images", 5) == 5
        assert state.get("num_frames") == 6
        with pytest.raises(SessionError, match="'num_frames' cannot be set"):
            state["num_frames"] = 3


@pytest.mark.parametrize(("name", "message"), [
    ("images", r"^the session has no 'images': use state\.frame\(frame_idx\)"),
    ("output_dict", "^the session has no 'output_dict': use the results of propagate_in_video"),
    ("obj_id", "^the session has no 'obj_id'; did you mean 'obj_ids'"),
])  # fmt: skip
def test_other_session_keys_name_what_replaces_them(
    predictor: I2VPPVideoPredictor, video_dir: str, name: str, message: str
) -> None:
    with predictor.init_state(video_dir) as state:
        for kind in (KeyError, I2VPPError):
            with pytest.raises(kind, match=message):
                state[name]


def test_the_page_for_sam2s_users_has_a_row_for_each_name() -> None:
    """Of the values that are answered, handed on or replaced."""
    rows = [line for line in (REPO / "docs" / "sam2.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    named = {name for row in rows for name in re.findall(r"`([\w.]+)", row.split("|")[1])}
    methods = {name for name in vars(sam2_module.Sam2Module) if not name.startswith("_")} - {"model", "dtype"}
    keys = {*sam2_keys.ANSWERED, *sam2_keys.REPLACED}
    keys |= {name for key in CONSTANTS if "." not in (name := key.removeprefix("model."))}
    assert named >= {*methods, *sam2_module.OF_THE_NETWORK, *sam2_module.REPLACED, *keys}
