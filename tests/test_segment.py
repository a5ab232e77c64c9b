"""`i2vpp segment`: what it writes, folders, images that cannot be read, and one error for each mistake."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from i2vpp.cli import main
from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from media import moving_disc
from models import make_predictor

FRAMES = moving_disc(3)[0]  # 48 high, 64 wide
HEIGHT, WIDTH = FRAMES[0].shape[:2]


@pytest.fixture(scope="module")
def video() -> I2VPPVideoPredictor:
    return make_predictor()


@pytest.fixture
def photos(tmp_path: Path, video: I2VPPVideoPredictor, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("i2vpp.commands.segment.build_predictor", lambda choice: video)
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, frame in zip(("a", "b", "c"), FRAMES, strict=True):
        Image.fromarray(frame).save(folder / f"{name}.jpg", quality=95)
    return folder


def segment(*arguments: object) -> int:
    return main(["segment", *map(str, arguments), "--untrained"])


def test_prompted_objects_of_a_folder(photos: Path, tmp_path: Path, video: I2VPPVideoPredictor) -> None:
    out = tmp_path / "out"
    assert segment(photos, "-o", out, "--box", "4,5,30,40", "--point", "40,30,0,2", "--negative", "5,5,0,2") == 0
    scores = json.loads((out / "scores.json").read_text())
    assert list(scores) == ["a", "b", "c"]
    predictor = I2VPPImagePredictor(video.model)
    predictor.set_image(photos / "b.jpg")
    box, iou, _ = predictor.predict(box=[4, 5, 30, 40], multimask_output=False, return_logits=True)
    clicks, _, _ = predictor.predict([[40, 30], [5, 5]], [1, 0], multimask_output=False, return_logits=True)
    expected = np.where(box[0] > 0, 1, 0)
    expected[(clicks[0] > 0) & (clicks[0] > box[0])] = 2
    with Image.open(out / "masks" / "b.png") as mask:
        assert mask.mode == "P"
        assert np.array_equal(np.array(mask), expected)
    entry = scores["b"]["objects"][0]
    assert (entry["id"], entry["predicted_iou"]) == (1, pytest.approx(float(iou[0])))
    assert entry["area"] == (box[0] > 0).sum()
    assert scores["b"]["size"] == [HEIGHT, WIDTH]
    with Image.open(out / "overlays" / "c.png") as picture:
        assert picture.size == (WIDTH, HEIGHT)


def test_a_single_click_takes_the_best_of_three(photos: Path, tmp_path: Path, video: I2VPPVideoPredictor) -> None:
    assert segment(photos / "a.jpg", "-o", tmp_path / "out", "--point", "20,22") == 0
    with video.init_state([photos / "a.jpg"]) as state:
        result = video.add_new_points_or_box(state, 0, 1, [[20, 22]], [1])
    found = json.loads((tmp_path / "out" / "scores.json").read_text())["a"]["objects"][0]
    assert found["predicted_iou"] == pytest.approx(float(result.predicted_ious[0]))


def test_everything(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    loose = ("--points-per-side", 3, "--iou-threshold", 0, "--stability-threshold", 0)
    assert segment(photos / "a.jpg", "-o", out, "--everything", *loose) == 0
    objects = json.loads((out / "scores.json").read_text())["a"]["objects"]
    assert [entry["id"] for entry in objects] == list(range(1, len(objects) + 1))
    assert [entry["area"] for entry in objects] == sorted((entry["area"] for entry in objects), reverse=True)
    with Image.open(out / "masks" / "a.png") as mask:
        ids = np.array(mask)
    assert set(np.unique(ids)) <= {0, *(entry["id"] for entry in objects)}
    assert (ids == objects[-1]["id"]).sum() == objects[-1]["area"], "the smallest lies on top"


def test_cut_outs_and_run_lengths(photos: Path, tmp_path: Path, video: I2VPPVideoPredictor) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    out = tmp_path / "out"
    options = ("--box", "4,5,30,40", "--point", "40,30,0,2", "--cutouts", "--json", "--no-masks", "--no-overlay")
    assert segment(photos, "-o", out, *options) == 0
    assert sorted(path.name for path in out.iterdir()) == ["cutouts", "rle", "scores.json"]
    predictor = I2VPPImagePredictor(video.model)
    predictor.set_image(photos / "b.jpg")
    expected = predictor.predict(box=[4, 5, 30, 40], multimask_output=False)[0][0] > 0
    rle = json.loads((out / "rle" / "b.json").read_text())
    assert rle["size"] == [HEIGHT, WIDTH] and list(rle["objects"]) == ["1", "2"]
    assert np.array_equal(coco.decode(rle["objects"]["1"]), expected), "the object's own mask, overlaps included"
    x, y, width, height = json.loads((out / "scores.json").read_text())["b"]["objects"][0]["bbox"]
    with Image.open(out / "cutouts" / "b_1.png") as cut, Image.open(photos / "b.jpg") as photo:
        assert (cut.mode, cut.size) == ("RGBA", (width, height))
        mask = expected[y : y + height, x : x + width]
        assert mask.sum() == expected.sum()
        pixels = np.array(cut)
        assert np.array_equal(pixels[..., 3] == 255, mask) and set(np.unique(pixels[..., 3])) <= {0, 255}
        assert np.array_equal(pixels[mask][:, :3], np.array(photo)[y : y + height, x : x + width][mask])


def test_run_lengths_need_pycocotools(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    assert segment(photos, "-o", tmp_path / "out", "--box", "4,5,30,40", "--json") == 1
    assert "COCO RLE needs pycocotools" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_image_that_cannot_be_read_is_named_and_the_others_are_written(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "b.jpg").write_bytes(b"no image")
    assert segment(photos, "-o", tmp_path / "out", "--box", "4,5,30,40") == 1
    assert sorted(path.stem for path in (tmp_path / "out" / "masks").iterdir()) == ["a", "c"]
    captured = capsys.readouterr()
    assert "b.jpg" in captured.err
    assert "wrote 2 images with 2 objects" in captured.out


@pytest.mark.parametrize(("arguments", "status", "message"), [
    ((), 2, "say what to segment: either --everything, or --point, --box or --prompts"),
    (("--point", "5,5", "--iou-threshold", "0.3"), 2, "--iou-threshold has an effect with --everything only"),
    (("--everything", "--point", "1,2"), 2, "say what to segment"),
    (("--point", "1,2,3"), 1, "frame must be 0 for an image; got 3"),
    (("--point", "1,2,0,256"), 1, "object must be at most 255 in a mask PNG; got 256"),
    (("--box", "1,1,900,9"), 1, r"a.jpg: box: (900, 9) lies outside the frame"),
    (("--everything", "--points-per-side", "0"), 2, "--points-per-side"),
])  # fmt: skip
def test_mistakes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int,
    message: str,
) -> None:  # fmt: skip
    assert segment(photos / "a.jpg", "-o", tmp_path / "out", *arguments) == status
    assert message in capsys.readouterr().err


def test_images_and_masks_that_do_not_fit(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    box, out = ("--box", "4,5,30,40"), tmp_path / "out"
    (tmp_path / "a.png").write_bytes((photos / "a.jpg").read_bytes())
    assert segment(photos, tmp_path / "a.png", "-o", out, *box) == 1
    assert "have one name" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert segment(tmp_path / "empty", "-o", out, *box) == 1
    assert "holds no image" in capsys.readouterr().err
    Image.fromarray(np.full((HEIGHT, WIDTH), 255, np.uint8)).save(tmp_path / "mask.png")
    (tmp_path / "prompts.json").write_text('[{"mask": "mask.png"}]')
    assert segment(photos, "-o", out, "--prompts", tmp_path / "prompts.json") == 1
    assert "a mask is no prompt of an image" in capsys.readouterr().err
    out.mkdir()
    (out / "old.txt").touch()
    assert segment(photos, "-o", out, *box) == 1
    assert "is not empty" in capsys.readouterr().err


def test_where_no_image_can_be_read_the_corrected_command_can_use_the_folder(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert segment(photos / "none.jpg", "-o", out, "--box", "4,5,30,40") == 1
    assert not list(out.iterdir())
    assert segment(photos / "a.jpg", "-o", out, "--box", "4,5,30,40") == 0
    assert list(json.loads((out / "scores.json").read_text())) == ["a"]
