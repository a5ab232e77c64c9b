from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_files import write_image, write_mask
from i2vpp.errors import DataError, I2VPPError
from media import moving_disc
from sav_dataset.plots import draw_plots, over_time
from sav_dataset.results import Evaluation, ObjectResult
from sav_dataset.sav_evaluator import evaluate, main

pytest.importorskip("matplotlib")


def result(video: str, j: tuple[float, ...]) -> ObjectResult:
    frames = tuple(f"{4 * t + 4:05d}" for t in range(len(j)))
    return ObjectResult(video=video, object="1", frames=frames, frame_j=j, frame_f=tuple(x / 2 for x in j))


def test_curves_over_time():
    objects = [result("a", (100.0, 50.0, 0.0)), result("b", (50.0, 50.0)), result("c", (20.0,))]
    mean, *panels = over_time(objects, objects[:1]).axes
    j, f = mean.lines
    assert j.get_ydata()[[0, -1]] == pytest.approx([170 / 3, 70 / 3])
    assert f.get_ydata()[-1] == pytest.approx(35 / 3)
    assert len(panels) == 1
    assert panels[0].get_title() == "a/1: J 50.0, F 25.0"
    assert list(panels[0].lines[0].get_xdata()) == [4, 8, 12]
    assert list(panels[0].lines[0].get_ydata()) == [100, 50, 0]


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Frames, truth and predictions of two videos, the second of which is followed badly."""
    images, truths, preds = (tmp_path / name for name in ("images", "gt", "pred"))
    frames, masks = moving_disc(6)
    for video, offset in (("a", 0), ("b", 8)):
        for t, mask in enumerate(masks):
            name = f"{video}/{t:05d}"
            path = write_image(images / f"{name}.jpg")
            Image.fromarray(frames[t]).save(path)
            write_mask(truths / f"{name}.png", mask)
            write_mask(preds / f"{name}.png", np.roll(mask, offset, axis=1))
    return images, truths, preds


def test_contact_sheets_of_the_worst_objects(roots, tmp_path, capsys):
    images, gt, pred = roots
    out = tmp_path / "plots"
    options = ["--plots", str(out), "--images", str(images), "--worst", "1"]
    assert main(["--gt_root", str(gt), "--pred_root", str(pred), *options]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["001_b_1.png", "over_time.png"]
    assert f"wrote {out / '001_b_1.png'}" in capsys.readouterr().out
    with Image.open(out / "001_b_1.png") as sheet:
        assert sheet.width == 4 * 410 + 10  # four cells and the gaps between them
        pixels = np.array(sheet.convert("RGB")).astype(int)
    # the frames are grey and yellow: green marks the truth, blue the prediction below it
    top, bottom = pixels[10:310, 10:410], pixels[310:610, 10:410]
    assert (top[..., 1] - top[..., 0] > 40).any()
    assert not (bottom[..., 1] - bottom[..., 0] > 40).any()
    assert (bottom[..., 2] - bottom[..., 1] > 40).any()


def test_chosen_videos(roots, tmp_path):
    evaluation = evaluate(*roots[1:])
    paths = draw_plots(evaluation, tmp_path / "out", videos=["a"], images=roots[0])
    assert [path.name for path in paths] == ["over_time.png", "001_a_1.png"]
    with pytest.raises(DataError, match="cannot plot z: not among the 2 scored videos"):
        draw_plots(evaluation, tmp_path / "out", videos=["z"])


def test_sheets_of_the_layout_of_sav(roots, tmp_path):
    images, *masks = roots
    for root in masks:
        for path in list(root.glob("*/*.png")):
            path.parent.joinpath("000").mkdir(exist_ok=True)
            path.rename(path.parent / "000" / path.name)
    paths = draw_plots(evaluate(*masks), tmp_path / "out", images=images)
    assert [path.name for path in paths] == ["over_time.png", "001_b_000.png", "002_a_000.png"]


def test_frames_that_do_not_fit(roots, tmp_path):
    images, gt, pred = roots
    evaluation = evaluate(gt, pred)
    write_image(images / "b" / "00001.jpg")
    with pytest.raises(DataError, match=r"00001.png is 64 x 48 pixels, but its image .*00001.jpg is 8 x 6"):
        draw_plots(evaluation, tmp_path / "out", images=images)
    (images / "b" / "00001.jpg").unlink()
    with pytest.raises(DataError, match=r"images/b lacks frame 00001; give the folder of the videos' frames"):
        draw_plots(evaluation, tmp_path / "out", images=images)


def test_without_matplotlib(monkeypatch, tmp_path):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(I2VPPError, match=r'plots need matplotlib: pip install "\.\[eval\]" in a clone'):
        draw_plots(Evaluation(objects=(result("a", (1.0,)),)), tmp_path)
