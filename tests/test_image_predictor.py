"""The image predictor: SAM 2's calls, the video predictor's masks, images of all kinds, one error for each mistake."""

from __future__ import annotations

import inspect
import io
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.build_i2vpp import build_i2vpp_image_predictor, build_i2vpp_video_predictor
from i2vpp.checkpoint import save_checkpoint
from i2vpp.errors import (
    ConfigError,
    FrameDecodeError,
    I2VPPWarning,
    PromptError,
    SessionError,
    UntrainedWarning,
    VideoError,
)
from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.images import open_image
from media import moving_disc
from models import SIDE, make_predictor

HEIGHT, WIDTH = 48, 64
FRAME = moving_disc(1, HEIGHT, WIDTH)[0][0]
OTHER = moving_disc(1, 30, 90, seed=1)[0][0]
LOW = SIDE // 4
BOXES = np.array([[4, 5, 30, 40], [20, 10, 60, 44], [1, 1, 9, 9]], np.float32)


@cache
def predictor_in(dtype: str) -> I2VPPVideoPredictor:
    return make_predictor("model.fill_hole_area=0", dtype=dtype)


@pytest.fixture(scope="module")
def video() -> I2VPPVideoPredictor:
    return predictor_in("float32")


@pytest.fixture(scope="module")
def predictor(video: I2VPPVideoPredictor) -> I2VPPImagePredictor:
    return I2VPPImagePredictor(video.model)


@pytest.fixture
def ready(predictor: I2VPPImagePredictor) -> Iterator[I2VPPImagePredictor]:
    predictor.set_image(FRAME)
    yield predictor
    predictor.reset_predictor()


def test_the_calls_of_sam2s_notebook(predictor: I2VPPImagePredictor) -> None:
    image = np.array(Image.fromarray(FRAME).convert("RGB"))
    predictor.set_image(image)
    input_point, input_label = np.array([[20, 22]]), np.array([1])
    masks, scores, logits = predictor.predict(point_coords=input_point, point_labels=input_label, multimask_output=True)
    order = np.argsort(scores)[::-1]
    masks, scores, logits = masks[order], scores[order], logits[order]
    assert (masks.shape, scores.shape, logits.shape) == ((3, HEIGHT, WIDTH), (3,), (3, LOW, LOW))
    assert masks.dtype == scores.dtype == logits.dtype == np.float32
    assert set(np.unique(masks)) <= {0.0, 1.0}
    assert np.abs(logits).max() <= 32

    mask_input = logits[np.argmax(scores), :, :]
    masks, scores, _ = predictor.predict(
        point_coords=np.array([[20, 22], [40, 30]]), point_labels=np.array([1, 0]), mask_input=mask_input[None, :, :],
        multimask_output=False,
    )  # fmt: skip
    assert (masks.shape, scores.shape) == ((1, HEIGHT, WIDTH), (1,))

    box = np.array([4, 5, 30, 40])
    masks, scores, _ = predictor.predict(point_coords=None, point_labels=None, box=box[None, :], multimask_output=False)
    assert masks.shape == (1, HEIGHT, WIDTH)
    masks, scores, _ = predictor.predict(
        point_coords=np.array([[9, 9]]), point_labels=np.array([0]), box=box, multimask_output=False
    )
    assert masks.shape == (1, HEIGHT, WIDTH)

    masks, scores, logits = predictor.predict(point_coords=None, point_labels=None, box=BOXES, multimask_output=False)
    assert (masks.shape, scores.shape, logits.shape) == ((3, 1, HEIGHT, WIDTH), (3, 1), (3, 1, LOW, LOW))

    predictor.set_image_batch([image, OTHER])
    masks_batch, scores_batch, _ = predictor.predict_batch(
        None, None, box_batch=[BOXES, np.array([[4, 5, 70, 28]])], multimask_output=False
    )
    assert [masks.shape for masks in masks_batch] == [(3, 1, HEIGHT, WIDTH), (1, 30, 90)]
    pts = np.array([[[20, 22]], [[40, 30]]])
    masks_batch, scores_batch, _ = predictor.predict_batch(
        [pts, pts * 0.9], [np.array([[1], [1]])] * 2, box_batch=None, multimask_output=True
    )
    assert [scores.shape for scores in scores_batch] == [(2, 3), (2, 3)]
    best = masks_batch[0][range(2), np.argmax(scores_batch[0], axis=-1)]
    assert best.shape == (2, HEIGHT, WIDTH)

    assert predictor.get_image_embedding().shape == (2, 256, SIDE // 16, SIDE // 16)
    assert (predictor.device, predictor.mask_threshold) == (torch.device("cpu"), 0.0)
    predictor.reset_predictor()


def test_the_signatures_are_sam2s() -> None:
    calls = {
        "predict": ["point_coords", "point_labels", "box", "mask_input", "multimask_output", "return_logits",
                    "normalize_coords"],
        "predict_batch": ["point_coords_batch", "point_labels_batch", "box_batch", "mask_input_batch",
                          "multimask_output", "return_logits", "normalize_coords"],
        "set_image": ["image"],
        "set_image_batch": ["image_list"],
        "get_image_embedding": [],
        "reset_predictor": [],
    }  # fmt: skip
    for name, arguments in calls.items():
        assert list(inspect.signature(getattr(I2VPPImagePredictor, name)).parameters)[1:] == arguments


@pytest.mark.parametrize(("prompt", "multimask"), [
    ({"points": [[20, 22]], "labels": [1]}, True),
    ({"points": [[20, 22]], "labels": [0]}, True),
    ({"points": [[20, 22], [40, 30]], "labels": [1, 0]}, False),
    ({"box": [4, 5, 30, 40]}, False),
    ({"points": [[4, 5], [30, 40]], "labels": [2, 3]}, False),
    ({"box": [4, 5, 30, 40], "points": [[20, 22]], "labels": [1]}, False),
    ({"box": [0.1, 0.1, 0.5, 0.9], "normalize_coords": False}, False),
])  # fmt: skip
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masks_are_those_of_the_video_predictor(prompt: dict[str, Any], multimask: bool, dtype: str) -> None:
    video = predictor_in(dtype)
    predictor = I2VPPImagePredictor(video)
    assert (predictor.model, predictor.dtype) == (video.model, video.dtype)
    predictor.set_image(FRAME)
    renamed = {"points": "point_coords", "labels": "point_labels"}
    given = {renamed.get(name, name): value for name, value in prompt.items()}
    masks, scores, _ = predictor.predict(**given, multimask_output=multimask, return_logits=True)
    best = scores.argmax()
    with video.init_state([FRAME]) as state:
        result = video.add_new_points_or_box(state, 0, 1, **prompt)
    assert np.array_equal(masks[best], result.masks[0, 0].numpy())
    assert scores[best] == result.predicted_ious[0]


@pytest.mark.parametrize("model", ["i2vpp-demo", torch.nn.Identity(), None])
def test_what_is_no_network_is_refused_at_once(model: Any) -> None:
    with pytest.raises(ConfigError, match=r"^model must be a network .* or a video predictor; got "):
        I2VPPImagePredictor(model)


def test_a_second_click_starts_from_the_mask_of_the_first(
    video: I2VPPVideoPredictor, ready: I2VPPImagePredictor
) -> None:
    _, scores, low_res = ready.predict([[20, 22]], [1])
    masks, _, _ = ready.predict(
        [[20, 22], [40, 30]], [1, 0], mask_input=low_res[scores.argmax()][None], multimask_output=False,
        return_logits=True,
    )  # fmt: skip
    with video.init_state([FRAME]) as state:
        video.add_new_points_or_box(state, 0, 1, [[20, 22]], [1])
        result = video.add_new_points_or_box(state, 0, 1, [[40, 30]], [0], clear_old_points=False)
    assert np.array_equal(masks[0], result.masks[0, 0].numpy())


def test_several_objects_at_once_get_what_each_gets_alone(
    ready: I2VPPImagePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2vpp.i2vpp_image_predictor.OBJECTS_PER_BATCH", 2)
    points = np.array([[[20, 22], [9, 9]], [[40, 30], [5, 5]], [[3, 3], [1, 1]]])
    labels = np.array([[1, 0], [1, -1], [1, 0]])  # the second object has one click
    for kind in (True, False):
        for prompt in ({"box": BOXES}, {"point_coords": points, "point_labels": labels},
                       {"box": BOXES, "point_coords": points, "point_labels": labels}):  # fmt: skip
            together = ready.predict(**prompt, multimask_output=kind, return_logits=True)
            for i in range(3):
                one = {name: value[i] for name, value in prompt.items()}
                alone = ready.predict(**one, multimask_output=kind, return_logits=True)
                for a, b in zip(together, alone, strict=True):
                    np.testing.assert_allclose(a[i], b, rtol=1e-4, atol=1e-4)
    masks, _, low_res = ready.predict(box=BOXES, multimask_output=False)
    refined, _, _ = ready.predict(mask_input=low_res, multimask_output=False)
    assert refined.shape == masks.shape
    none = ready.predict(box=np.zeros((0, 4)), multimask_output=False)
    assert [x.shape for x in none] == [(0, 1, HEIGHT, WIDTH), (0, 1), (0, 1, LOW, LOW)]


def test_a_batch_of_images_gives_what_each_gives_alone(predictor: I2VPPImagePredictor) -> None:
    predictor.set_image_batch([FRAME, OTHER])
    masks, scores, low_res = predictor.predict_batch(
        point_coords_batch=[[[20, 22]], None], point_labels_batch=[[1], None], box_batch=[None, [4, 5, 30, 28]],
        return_logits=True,
    )  # fmt: skip
    separate: list[tuple[np.ndarray, dict[str, Any]]] = [
        (FRAME, {"point_coords": [[20, 22]], "point_labels": [1]}), (OTHER, {"box": [4, 5, 30, 28]})
    ]  # fmt: skip
    for i, (image, prompt) in enumerate(separate):
        predictor.set_image(image)
        alone = predictor.predict(**prompt, return_logits=True)
        for a, b in zip((masks, scores, low_res), alone, strict=True):
            assert np.array_equal(a[i], b)


def test_threshold_holes_and_small_parts(ready: I2VPPImagePredictor) -> None:
    logits, _, _ = ready.predict(box=BOXES[1], multimask_output=False, return_logits=True)
    middle = float(np.median(logits))
    strict = I2VPPImagePredictor(ready.model, middle)
    strict.set_image(FRAME)
    masks, _, _ = strict.predict(box=BOXES[1], multimask_output=False)
    assert np.array_equal(masks > 0, logits > middle)
    full = I2VPPImagePredictor(ready.model, middle, max_hole_area=LOW * LOW)
    empty = I2VPPImagePredictor(ready.model, middle, max_sprinkle_area=LOW * LOW)
    for cleaner, value in ((full, 1.0), (empty, 0.0)):
        cleaner.set_image(FRAME)
        masks, _, _ = cleaner.predict(box=BOXES, multimask_output=False)
        assert (masks == value).all(), "all parts are at most as large as the mask"


def test_builders(tmp_path: Path) -> None:
    model = make_predictor(image_size=64).model
    save_checkpoint(model, tmp_path / "own.pt", image_size=64)
    built = build_i2vpp_image_predictor(None, tmp_path / "own.pt", device="cpu", dtype="bfloat16")
    loaded = I2VPPImagePredictor.from_pretrained(tmp_path / "own.pt", device="cpu")
    assert (built.dtype, loaded.dtype) == (torch.bfloat16, torch.float32)
    assert loaded.model.image_size == 64
    with pytest.warns(UntrainedWarning):
        warnings.simplefilter("always")
        build_i2vpp_video_predictor.__globals__["_warn_untrained"].cache_clear()
        build_i2vpp_image_predictor("i2vpp-256", device="cpu")
    arguments = list(inspect.signature(build_i2vpp_video_predictor).parameters)
    assert [*inspect.signature(build_i2vpp_image_predictor).parameters, "selector"] == arguments


# Images


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_an_image_of_any_kind_is_the_same(tmp_path: Path) -> None:
    picture = Image.fromarray(FRAME)
    (tmp_path / "photo.png").write_bytes(encoded(picture))
    kinds = [
        FRAME, FRAME.transpose(2, 0, 1), torch.from_numpy(FRAME), FRAME.astype(np.float32) / 255, picture,
        picture.convert("RGBA"), encoded(picture), io.BytesIO(encoded(picture)), str(tmp_path / "photo.png"),
        tmp_path / "photo.png", (tmp_path / "photo.png").as_uri(),
    ]  # fmt: skip
    for kind in kinds:
        assert np.array_equal(open_image(kind), FRAME)
    grey = open_image(picture.convert("L"))
    assert (grey[..., 0] == grey[..., 2]).all()


def test_a_warning_names_the_users_line(predictor: I2VPPImagePredictor) -> None:
    deep = Image.fromarray((FRAME[..., 0].astype(np.uint16) + 1) * 200)
    with pytest.warns(I2VPPWarning, match="values of more than 8 bits") as warned:
        predictor.set_image(deep)
    assert warned[0].filename == __file__


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(Image.fromarray(FRAME), exif=exif)
    upright = {
        1: FRAME, 2: FRAME[:, ::-1], 3: FRAME[::-1, ::-1], 4: FRAME[::-1], 5: FRAME.transpose(1, 0, 2),
        6: np.rot90(FRAME, -1), 7: FRAME[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(FRAME, 1),
    }[orientation]  # fmt: skip
    (tmp_path / "photo.png").write_bytes(content)
    for kind in (content, tmp_path / "photo.png", Image.open(io.BytesIO(content))):
        assert np.array_equal(open_image(kind), upright)


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found = self.path == "/photo.png"
        self.send_response(200 if found else 404)
        self.end_headers()
        if found:
            self.wfile.write(encoded(Image.fromarray(FRAME)))

    def log_message(self, *args: Any) -> None:
        pass


def test_an_image_by_url() -> None:
    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        where = f"http://127.0.0.1:{server.server_port}"
        assert np.array_equal(open_image(f"{where}/photo.png"), FRAME)
        with pytest.raises(VideoError, match=r"none.png' cannot be fetched: HTTP Error 404"):
            open_image(f"{where}/none.png")
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("image", "error", "message"), [
    ("none.jpg", VideoError, "image 'none.jpg' does not exist; give an image file or a URL"),
    ("", VideoError, "image '' does not exist"),
    (".", VideoError, "image '.' is a folder"),
    (Path(__file__), FrameDecodeError, "cannot be read as an image: it is of no format that Pillow knows"),
    (b"", FrameDecodeError, "^the image in memory cannot be read as an image: it is of no format that Pillow knows$"),
    (encoded(Image.fromarray(FRAME))[:200], FrameDecodeError, "the image in memory cannot be read as an image"),
    ("gopher://x/y.jpg", VideoError, "cannot be fetched: .*unknown url type: gopher"),
    (None, VideoError, "the image is of type NoneType; allowed: an image path or URL, bytes"),
    ([FRAME], VideoError, "the image is of type list"),
    (np.zeros((2, 4, 4, 3), np.uint8), VideoError, r"the image has shape \[2, 4, 4, 3\]; allowed: an image path"),
    (np.zeros((0, 4, 3), np.uint8), VideoError, r"the image has shape \[0, 4, 3\]"),
    (FRAME.astype(np.int64), VideoError, "the image has dtype int64"),
    (FRAME.astype(np.float32), VideoError, "the image holds floats from"),
])  # fmt: skip
def test_what_is_no_image(predictor: I2VPPImagePredictor, image: Any, error: type[Exception], message: str) -> None:
    predictor.set_image(FRAME)
    with pytest.raises(error, match=message):
        predictor.set_image(image)
    with pytest.raises(SessionError, match="No image is set"):  # rather than masks of the image before
        predictor.predict([[1, 1]], [1])


# Prompts


@pytest.mark.parametrize(("prompt", "message"), [
    ({}, "Nothing to prompt with"),
    ({"point_coords": [[1, 2]]}, "points and labels go together"),
    ({"point_labels": [1]}, "points and labels go together"),
    ({"point_coords": [[66.5, 2]], "point_labels": [1]}, r"points: \(66.5, 2\) lies .* 64 wide and 48 high"),
    ({"point_coords": [[1, 2]], "point_labels": [4]}, r"labels must be 1 \(positive\) or 0"),
    ({"point_coords": "here", "point_labels": [1]}, "points must be numbers"),
    ({"point_coords": [[1, 2]], "point_labels": [1, 0]}, "labels must be one per point"),
    ({"box": [10, 30, 20, 20]}, "box must have x0 < x1 and y0 < y1"),
    ({"box": [10, 10, 20]}, "box must be four numbers"),
    ({"box": [[4, 5, 30, 40], [9, 9, 5, 20]]}, "object 1 of 2: box must have x0 < x1"),
    ({"box": BOXES, "point_coords": [[1, 2]], "point_labels": [1]},
     r"must be of equally many objects B; got shapes \[1, 2\], \[1\], \[3, 4\]"),
    ({"box": BOXES, "point_coords": [[[1, 2]], [[3, 4]]], "point_labels": [[1], [1]]}, "equally many objects"),
    ({"mask_input": np.zeros((LOW, LOW))}, r"mask_input must be low-resolution logits \[1, 16, 16\].*; got"),
    ({"mask_input": np.zeros((1, HEIGHT, WIDTH))}, r"got shape \[1, 48, 64\]"),
    ({"mask_input": np.full((1, LOW, LOW), np.nan)}, "mask_input contains NaN"),
    ({"mask_input": "mask.png"}, "mask_input must be numbers"),
    ({"mask_input": np.zeros((2, 1, LOW, LOW)), "box": BOXES[0]}, "mask_input holds 2 masks, but .* 1 objects"),
])  # fmt: skip
def test_impossible_prompts(ready: I2VPPImagePredictor, prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        ready.predict(**prompt)


def test_calls_out_of_order(predictor: I2VPPImagePredictor) -> None:
    predictor.reset_predictor()
    for call in (predictor.predict, predictor.predict_batch, predictor.get_image_embedding):
        with pytest.raises(SessionError, match="No image is set: call set_image or set_image_batch first"):
            call()
    predictor.set_image(FRAME)
    with pytest.raises(SessionError, match="A single image is set: use predict"):
        predictor.predict_batch([[[1, 1]]], [[1]])
    predictor.set_image_batch([FRAME, OTHER])
    with pytest.raises(SessionError, match="A batch of images is set: use predict_batch"):
        predictor.predict([[1, 1]], [1])
    with pytest.raises(PromptError, match="box_batch must have one entry for each of the 2 images; got 1"):
        predictor.predict_batch(box_batch=[BOXES])
    no_lists: list[Any] = [[], FRAME, "photo.png"]
    for wrong in no_lists:
        with pytest.raises(VideoError, match="image_list must be a list of at least one image"):
            predictor.set_image_batch(wrong)
    with pytest.raises(VideoError, match="does not exist"):
        predictor.set_image_batch([FRAME, "none.png"])
    with pytest.raises(SessionError):
        predictor.get_image_embedding()
