"""The `i2vpp` command, with a predictor that finds discs where the test puts them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

import i2vpp.checkpoint
import i2vpp.weights.download
from i2vpp import cli, model_choice
from i2vpp.commands import demo
from i2vpp.commands.prompts import (
    box,
    mask_file,
    merge,
    negative_point,
    positive_point,
)
from i2vpp.errors import FrameDecodeError, PromptError
from i2vpp.prompts.checks import ObjectPrompt
from i2vpp.prompts.files import MaskFile, read_mask, read_prompts_file
from i2vpp.session.video import open_source
from i2vpp.structures import FrameResult
from i2vpp.utils.signals import EXIT_INTERRUPTED
from i2vpp.utils.visualize import davis_palette
from media import moving_disc, read_all, write_video

FRAMES, HEIGHT, WIDTH = 6, 48, 64


@dataclass
class FakeState:
    frames: list[np.ndarray]
    prompts: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    fps: float | None = 24.0
    source: Any = field(
        default_factory=lambda: SimpleNamespace(countable=True, names=None, bad_frames=[], time=lambda i: None)
    )

    def __enter__(self) -> FakeState:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    @property
    def bad_frames(self) -> list[int]:
        return self.source.bad_frames

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def video_height(self) -> int:
        return self.frames[0].shape[0]

    @property
    def video_width(self) -> int:
        return self.frames[0].shape[1]

    def frame(self, frame_idx: int) -> np.ndarray:
        return self.frames[frame_idx]


class FakePredictor:
    """Finds a moving disc for every object, see `disc`; raises at a frame if it is told to."""

    device, image_size = torch.device("cpu"), 64

    def __init__(self, raises: dict[int, BaseException] | None = None) -> None:
        self.raises = raises or {}
        self.calls: list[dict[str, Any]] = []
        self.built: dict[str, Any] = {}
        self.span: dict[str, Any] = {}

    def build(self, **arguments: Any) -> FakePredictor:
        self.built = arguments
        return self

    def init_state(self, video_path: str, on_bad_frame: str = "raise") -> FakeState:
        self.video, self.on_bad_frame = video_path, on_bad_frame
        if Path(video_path).exists():
            source = open_source(video_path)
            return FakeState(read_all(source), fps=source.fps, source=source)
        return FakeState(moving_disc(FRAMES, HEIGHT, WIDTH)[0])

    def add_new_points_or_box(self, state: FakeState, *, frame_idx: int, obj_id: int, **prompt: Any) -> None:
        if any(x >= state.video_width for x, _ in prompt["points"] or ()):
            raise PromptError("points must lie inside the frame")
        self._add(state, frame_idx=frame_idx, obj_id=obj_id, **prompt)

    def add_new_mask(self, state: FakeState, *, frame_idx: int, obj_id: int, mask: np.ndarray) -> None:
        self._add(state, frame_idx=frame_idx, obj_id=obj_id, mask=mask)

    def _add(self, state: FakeState, **call: Any) -> None:
        self.calls.append(call)
        state.prompts.setdefault(call["obj_id"], []).append(call)

    def propagate_in_video(self, state: FakeState, **span: Any) -> Iterator[FrameResult]:
        self.span = span
        start = span["start_frame_idx"] or 0
        reach = state.num_frames if span["max_frame_num_to_track"] is None else span["max_frame_num_to_track"]
        forward = list(range(start, min(start + reach + 1, state.num_frames)))
        backward = list(range(start, max(start - reach - 1, -1), -1))
        order = forward + backward[1:] if span["both"] else backward if span["reverse"] else forward
        return (self._result(state, frame_idx) for frame_idx in order)

    def _result(self, state: FakeState, frame_idx: int) -> FrameResult:
        if frame_idx in self.raises:
            raise self.raises[frame_idx]
        ids = list(state.prompts)
        discs = [disc(frame_idx, obj_id, state.video_height, state.video_width) for obj_id in ids]
        logits = torch.tensor(np.stack(discs))[:, None] * 10.0 - 5 + torch.arange(len(ids)).view(-1, 1, 1, 1)
        return FrameResult(frame_idx, ids, logits, torch.full((len(ids),), 3.0), torch.full((len(ids),), 0.75))


def disc(frame_idx: int, obj_id: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    y, x = np.ogrid[:height, :width]
    return (x - 10 - 4 * frame_idx) ** 2 + (y - 12 - 5 * obj_id) ** 2 <= 64


WEIGHTS = Path("checkpoints/i2vpp-demo.pt")


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> FakePredictor:
    fake = FakePredictor()
    monkeypatch.setattr("i2vpp.build_i2vpp.build_i2vpp_video_predictor", fake.build)
    monkeypatch.setattr(model_choice, "demo_checkpoint", lambda: WEIGHTS)
    return fake


@pytest.fixture
def run(tmp_path: Path, predictor: FakePredictor) -> Callable[..., int]:
    def run(*arguments: str) -> int:
        return cli.main(["track", "a folder", "-o", str(tmp_path / "out"), "--quiet", *arguments])

    return run


def index_masks(folder: Path) -> dict[int, np.ndarray]:
    return {int(path.stem): np.array(Image.open(path)) for path in sorted((folder / "masks").glob("*.png"))}


def video_length(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


# Parsing


@pytest.mark.parametrize(
    ("text", "frame_idx", "obj_id"), [("3,4.5", 0, 1), ("3,4.5,7", 7, 1), (" 3, 4.5, 7, 12", 7, 12)]
)
def test_points_have_an_optional_frame_and_object(text: str, frame_idx: int, obj_id: int) -> None:
    point = positive_point(text)
    assert (point.points, point.labels) == (((3.0, 4.5),), (1,))
    assert (point.frame_idx, point.obj_id) == (frame_idx, obj_id)
    assert negative_point(text).labels == (0,)


def test_boxes_and_masks_have_an_optional_frame_and_object() -> None:
    corners = box("1,2,30,40.5,5,6")
    assert (corners.box, corners.frame_idx, corners.obj_id) == ((1, 2, 30, 40.5), 5, 6)
    assert mask_file("a,b.png") == MaskFile(path=Path("a,b.png"))
    assert mask_file("m.png,3") == MaskFile(path=Path("m.png"), frame_idx=3)
    assert mask_file("m.png,3,9") == MaskFile(path=Path("m.png"), frame_idx=3, obj_id=9)


@pytest.mark.parametrize(
    ("option", "value", "form"),
    [
        ("--point", "3", "x,y[,frame[,object]], got '3'"),
        ("--point", "3,x", "x,y[,frame[,object]] in numbers, got '3,x'"),
        ("--point", "3,4,5,6,7", "got '3,4,5,6,7'"),
        ("--point", "3,nan", "points contains NaN or infinite values"),
        ("--point", "3,4,1.5", "in numbers"),
        ("--negative", "3,4,0,0", "object must be a whole number from 1 on; got 0"),
        ("--negative", "3,4,-1", "frame must be a whole number from 0 on; got -1"),
        ("--point", "3,4,2147483648", "frame must be at most 2147483647; got 2147483648"),
        ("--box", "1,2,3", "x0,y0,x1,y1[,frame[,object]]"),
        ("--box", "5,2,3,9", "got '5,2,3,9': box must have x0 < x1 and y0 < y1; got 5, 2, 3, 9"),
        ("--mask", "m.png,0,0", "FILE[,frame[,object]]"),
        ("--override", "model.image_size", "KEY=VALUE"),
        ("--seed", "one", "integer of 0 or more"),
        ("--max-frames", "-3", "must be an integer of 0 or more; got '-3'"),
        ("--dtype", "int8", "float32"),
    ],
)
def test_a_bad_value_names_its_option_and_the_form(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], option: str, value: str, form: str
) -> None:
    assert run("--point", "1,1", option, value) == cli.EXIT_USAGE
    message = capsys.readouterr().err.splitlines()[-1]
    assert option in message
    assert form in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to track"),
        (["--point", "1,1", "--no-masks", "--no-overlay", "--no-scores"], "nothing to write"),
        (["--point", "1,1", "--reverse", "--both"], "not allowed with"),
        (["--everything", "--point", "1,1"], "--everything goes without --point, --negative, --box, --mask"),
        (["--everything", "--both"], "--everything tracks towards the end: without --reverse and --both"),
        (["--everything", "--max-objects", "0"], "--max-objects: must be an integer of 1 or more"),
        (["--point", "1,1", "--discover", "5"], "--discover has an effect with --everything only"),
    ],
)
def test_wrong_usage(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(*arguments) == cli.EXIT_USAGE
    assert message in capsys.readouterr().err


def test_every_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ([], ["track"], ["demo"], ["info"], ["download"]):
        assert cli.main([*command, "--help"]) == 0
        text = capsys.readouterr().out
        assert " ".join(["  i2vpp", *command]) in text.partition("example")[2]


def test_help_does_not_import_pytorch() -> None:
    code = (
        "import sys, i2vpp.cli; i2vpp.cli.main(['--help']); sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


# Prompts


def test_prompts_of_one_object_and_frame_are_given_in_one_call(
    run: Callable[..., int], predictor: FakePredictor
) -> None:
    arguments = ["--point", "3,4,0,2", "--negative", "5,6,0,2", "--box", "1,1,9,9,0,2", "--point", "7,8"]
    assert run(*arguments) == 0
    assert predictor.calls == [
        {"frame_idx": 0, "obj_id": 1, "points": [[7.0, 8.0]], "labels": [1], "box": None},
        {"frame_idx": 0, "obj_id": 2, "points": [[3, 4], [5, 6]], "labels": [1, 0], "box": [1, 1, 9, 9]},
    ]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([box("1,1,2,2"), box("1,1,3,3")], "object 1 on frame 0 has 2 boxes"),
        ([ObjectPrompt(mask=np.ones((2, 2), bool)), positive_point("1,1")], "a mask and also clicks"),
        ([ObjectPrompt(mask=np.ones((2, 2), bool))] * 2, "2 masks"),
    ],
)
def test_prompts_that_exclude_each_other(prompts: list[ObjectPrompt], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        merge(prompts)


def save_image(path: Path, pixels: np.ndarray, mode: str) -> Path:
    image = Image.fromarray(pixels).convert("P") if mode == "P" else Image.fromarray(pixels, mode)
    if mode == "P":
        image.putpalette(davis_palette())
    image.save(path)
    return path


def test_mask_images_are_one_object_per_value_or_the_object_named(tmp_path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[:5], pixels[10:20] = 3, 7
    for mode in ("P", "L"):
        path = save_image(tmp_path / f"{mode}.png", pixels, mode)
        three, seven = read_mask(MaskFile(path=path, frame_idx=2))
        assert (three.obj_id, three.frame_idx, seven.obj_id) == (3, 2, 7)
        assert seven.mask is not None
        assert (seven.mask == (pixels == 7)).all()
        (named,) = read_mask(MaskFile(path=path, obj_id=9))
        assert named.obj_id == 9
        assert named.mask is not None
        assert (named.mask == (pixels > 0)).all()


def test_mask_images_of_one_value(tmp_path: Path) -> None:
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[:5] = 4
    assert [p.obj_id for p in read_mask(MaskFile(path=save_image(tmp_path / "p.png", pixels, "P")))] == [4]
    assert [p.obj_id for p in read_mask(MaskFile(path=save_image(tmp_path / "l.png", pixels * 60, "L")))] == [1]
    colour = np.dstack([pixels, pixels * 0, pixels, 255 - pixels])
    (found,) = read_mask(MaskFile(path=save_image(tmp_path / "c.png", colour, "RGBA")))
    assert found.mask is not None
    assert (found.mask == (pixels > 0)).all()


def test_mask_images_that_cannot_be_used(tmp_path: Path) -> None:
    soft = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    with pytest.raises(PromptError, match="255 grey values"):
        read_mask(MaskFile(path=save_image(tmp_path / "soft.png", soft, "L")))
    with pytest.raises(PromptError, match="is empty"):
        read_mask(MaskFile(path=save_image(tmp_path / "none.png", soft * 0, "L")))
    (tmp_path / "text.png").write_text("no image")
    for name in ("text.png", "missing.png"):
        with pytest.raises(PromptError, match=f"cannot read the mask .*{name}"):
            read_mask(MaskFile(path=tmp_path / name))


def test_mask_images_with_soft_edges(tmp_path: Path) -> None:
    pixels = np.kron(disc(0, 1, HEIGHT // 2, WIDTH // 2), np.full((2, 2), 255)).astype(np.uint8)
    path = tmp_path / "soft.png"
    Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(1)).save(path)
    with pytest.raises(
        PromptError, match=r"soft\.png has soft edges, .* Or say which object it shows, by FILE"
    ) as caught:
        read_mask(MaskFile(path=path))
    assert "\n" not in str(caught.value)
    (found,) = read_mask(MaskFile(path=path, obj_id=3))
    assert (found.obj_id, found.file) == (3, path)
    assert found.mask is not None
    assert np.mean(found.mask != (pixels > 0)) < 0.01


def test_masks_of_another_size_are_named_or_resized(
    run: Callable[..., int], predictor: FakePredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = disc(0, 1).astype(np.uint8) * 255
    path = save_image(tmp_path / "large.png", whole.repeat(2, 0).repeat(2, 1), "L")
    (tmp_path / "p.json").write_text(json.dumps([{"mask": "large.png", "object": 2}]))
    for arguments in (["--mask", str(path)], ["--prompts", str(tmp_path / "p.json")]):
        assert run(*arguments) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert f"mask {path} is {2 * WIDTH} x {2 * HEIGHT} pixels, but the video is {WIDTH} x {HEIGHT}" in said
        assert said.endswith("--resize-masks resizes it")
    assert not (tmp_path / "out").exists()
    assert run("--mask", str(path), "--resize-masks") == 0
    np.testing.assert_array_equal(predictor.calls[-1]["mask"], whole > 0)
    turned = save_image(tmp_path / "turned.png", np.ascontiguousarray(whole.T), "L")
    assert run("--mask", str(turned), "--resize-masks", "--overwrite") == 1
    assert "which is no other size of the same picture" in capsys.readouterr().err


def test_a_prompts_file(run: Callable[..., int], predictor: FakePredictor, tmp_path: Path) -> None:
    save_image(tmp_path / "cat.png", np.eye(HEIGHT, WIDTH, dtype=np.uint8) * 255, "L")
    entries = [
        {"points": [[1, 2], [3, 4]], "labels": [1, 0], "box": [0, 0, 9, 9]},
        {"frame": 3, "object": 1, "points": [[5, 6]]},
        {"frame": 2, "object": 4, "mask": "cat.png"},
    ]
    (tmp_path / "prompts.json").write_text(json.dumps(entries))
    assert run("--prompts", str(tmp_path / "prompts.json"), "--point", "7,8,3") == 0
    first, second, third = predictor.calls
    assert first == {"frame_idx": 0, "obj_id": 1, "points": [[1, 2], [3, 4]], "labels": [1, 0], "box": [0, 0, 9, 9]}
    assert second == {"frame_idx": 3, "obj_id": 1, "points": [[7, 8], [5, 6]], "labels": [1, 1], "box": None}
    assert (third["frame_idx"], third["obj_id"], third["mask"].sum()) == (2, 4, HEIGHT)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ('{"frame": 0}', "must hold a list of prompts, got dict"),
        ("[3]", "entry 0: the prompt must be an object with box, frame, labels, mask, object, points; got 3"),
        (
            '[{"points": [[1, 2]]}, {"point": [[1, 2]]}]',
            "entry 1: unknown key 'point' in the prompt; did you mean 'points'?",
        ),
        ('[{"zzz": 1}]', "unknown key 'zzz' in the prompt; allowed: box, frame"),
        ("[{}]", "there must be points, a box or a mask"),
        ('[{"frame": -1, "points": [[1, 2]]}]', "frame must be a whole number from 0 on; got -1"),
        ('[{"object": "dog", "points": [[1, 2]]}]', "object must be a whole number from 1 on; got 'dog'"),
        ('[{"points": [1, 2]}]', r"points\[0\] must be 2 finite numbers \(x, y\) in pixels; got 1"),
        ('[{"points": [["a", 2]]}]', r"points\[0\] must be 2 finite numbers \(x, y\)"),
        ('[{"points": 3}]', "points must be a list"),
        ('[{"points": [[true, 2]]}]', r"points\[0\] must be 2 finite numbers \(x, y\)"),
        ('[{"points": [[null, 2]]}]', r"points\[0\] must be 2 finite numbers \(x, y\)"),
        ('[{"points": [[[1], 2]]}]', r"points\[0\] must be 2 finite numbers \(x, y\)"),
        ('[{"points": null}]', "points must be a list; got null"),
        ('[{"box": null}]', r"box must be 4 finite numbers \(x0, y0, x1, y1\) in pixels; got null"),
        ('[{"mask": null}]', "mask must be the name of an image file, got null"),
        ("null", "must hold a list of prompts, got "),
        (
            '[{"frame": 1' + "0" * 400 + ', "points": [[1, 2]]}]',
            "frame must be at most 2147483647; got an integer of 1329 bits",
        ),
        (
            '[{"object": 1' + "0" * 400 + ', "points": [[1, 2]]}]',
            "object must be at most 2147483647; got an integer of 1329 bits",
        ),
        (
            '[{"points": [[1, 2]], "labels": [1' + "0" * 400 + "]}]",
            r"labels\[0\] must be an integer of -1 or more; got 1000",
        ),
        ('[{"mask": "\\u0000.png"}]', "cannot read the mask"),
        ('[{"mask": ""}]', "cannot read the mask"),
        ("3", "must hold a list of prompts, got int"),
        ("some text", "is not JSON"),
        ("", "is not JSON"),
        ('[{"points": [[1, 2]], "labels": [1, 1]}]', r"labels must be one per point: 1 points, labels of shape \[2\]"),
        ('[{"points": [[1, 2]], "labels": [4]}]', r"labels must be 1 \(positive\) or 0 .* got 4"),
        ('[{"points": [[1, 2]], "labels": [true]}]', r"labels\[0\] must be an integer of -1 or more; got true"),
        ('[{"box": [1, 2, 3]}]', r"box must be 4 finite numbers \(x0, y0, x1, y1\)"),
        ('[{"box": [9, 2, 3, 4]}]', "box must have x0 < x1 and y0 < y1; got 9, 2, 3, 4"),
        ('[{"mask": "a.png", "points": [[1, 2]]}]', "cannot be combined"),
        ('[{"mask": 3}]', "mask must be the name of an image file"),
        ('[{"mask": "missing.png"}]', "cannot read the mask"),
        ("[" * 100_000, "is not JSON: its lists and objects are nested too deeply"),
        ('{"a": ' * 100_000, "is not JSON: its lists and objects are nested too deeply"),
        (f'[{{"points": [[1{"0" * 400}, 2]]}}]', r"points\[0\] must be 2 finite numbers .* got \[1000+\.\.\.$"),
        (f'[{{"box": [1, 2, 3, 1{"0" * 400}]}}]', r"box must be 4 finite numbers"),
        (f'[{{"points": [[1{"0" * 5000}, 2]]}}]', "is not JSON"),
        ('[{"points": [[1e999, 2]]}]', "must be 2 finite numbers"),
        (f'[{{"points": "{"x" * 5000}"}}]', 'points must be a list; got "x+\\.\\.\\.$'),
        (f'[{{"points": {"[" * 800}{"]" * 800}}}]', r"points\[0\] must be 2 finite numbers .* got \[+"),
    ],
    ids=lambda value: value[:30],
)
def test_a_prompts_file_that_is_not_right(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(PromptError, match=message) as caught:
        read_prompts_file(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_prompts_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text('[{"points": [[1, 2]]}]', encoding="utf-8-sig")
    assert read_prompts_file(path)[0].points == ((1, 2),)


def test_a_missing_prompts_file(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--prompts", "missing.json") == cli.EXIT_ERROR
    assert capsys.readouterr().err == "i2vpp: error: cannot read missing.json: No such file or directory\n"


# Tracking


def test_all_outputs(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    assert run("--point", "1,1", "--point", "9,9,0,3", "--json") == 0
    out = tmp_path / "out"
    masks = index_masks(out)
    assert list(masks) == list(range(FRAMES))
    content = json.loads((out / "masks.json").read_text())
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert len(rows) == 2 * FRAMES
    for frame_idx, index in masks.items():
        one, three = disc(frame_idx, 1), disc(frame_idx, 3)
        assert (index == np.where(three, 3, np.where(one, 1, 0))).all()  # the fake is surer of the later object
        for obj_id, mask in ((1, one), (3, three)):
            assert (coco.decode(content["objects"][str(obj_id)][str(frame_idx)]) == mask).all()
            row = rows[2 * frame_idx + (obj_id == 3)]
            assert (int(row["frame"]), int(row["object"]), int(row["area"])) == (frame_idx, obj_id, mask.sum())
    assert (rows[0]["object_score"], rows[0]["predicted_iou"]) == ("3", "0.75")
    assert video_length(out / "overlay.mp4") == FRAMES
    printed = capsys.readouterr()
    assert printed.out.startswith(f"wrote {FRAMES} frames of 2 objects in ")
    assert "frames/s" in printed.out
    for name in ("masks", "overlay.mp4", "masks.json", "scores.csv"):
        assert str(out / name) in printed.out
    assert printed.err == f"i2vpp: weights: {WEIGHTS}\n"


def test_outputs_can_be_switched_off(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("--point", "1,1,0,1000", "--no-masks", "--no-overlay") == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["scores.csv"]


@pytest.mark.parametrize(
    ("arguments", "frames"),
    [
        (["--reverse", "--start-frame", "3"], [0, 1, 2, 3]),
        (["--both", "--start-frame", "3"], [0, 1, 2, 3, 4, 5]),
        (["--both", "--start-frame", "3", "--max-frames", "1"], [2, 3, 4]),
        (["--start-frame", "4"], [4, 5]),
    ],
)
def test_spans(run: Callable[..., int], tmp_path: Path, arguments: list[str], frames: list[int]) -> None:
    assert run("--point", "1,1", *arguments) == 0
    assert list(index_masks(tmp_path / "out")) == frames
    with av.open(str(tmp_path / "out/overlay.mp4")) as container:
        shown = [frame.to_ndarray(format="rgb24").astype(float) for frame in container.decode(video=0)]
    video = moving_disc(FRAMES, HEIGHT, WIDTH)[0]
    nearest = [int(np.argmin([np.abs(picture - frame).mean() for frame in video])) for picture in shown]
    assert nearest == frames


def test_the_model_is_built_as_told(run: Callable[..., int], predictor: FakePredictor) -> None:
    options = ["--config", "i2vpp-512", "--device", "cpu", "--dtype", "bfloat16", "--seed", "7", "--compile"]
    assert run("--point", "1,1", *options, "--override", "a=1", "--override", "b=2", "--checkpoint", "w.pt") == 0
    assert predictor.built == {
        "config_file": "i2vpp-512",
        "ckpt_path": "w.pt",
        "device": "cpu",
        "dtype": "bfloat16",
        "hydra_overrides_extra": ("model.selection.seed=7", "a=1", "b=2"),
        "vos_optimized": True,
    }
    assert predictor.span["progress"] is False


@pytest.mark.parametrize("device", ["warp", "cuda:99"])
def test_devices_that_are_not_there(run: Callable[..., int], capsys: pytest.CaptureFixture[str], device: str) -> None:
    assert run("--point", "1,1", "--device", device) == cli.EXIT_ERROR
    assert f"device '{device}'" in capsys.readouterr().err


@pytest.mark.parametrize("direction", [[], ["--both"]])
@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), EXIT_INTERRUPTED, "i2vpp: interrupted; 4 frames written to"),
        (FrameDecodeError("frame 4 is broken"), cli.EXIT_ERROR, "i2vpp: error: frame 4 is broken; 4 frames written to"),
    ],
)
def test_what_is_finished_stays(
    run: Callable[..., int],
    predictor: FakePredictor,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    direction: list[str],
    error: BaseException,
    status: int,
    message: str,
) -> None:
    pytest.importorskip("pycocotools")
    predictor.raises[4] = error
    assert run("--point", "1,1", "--json", *direction) == status
    out = tmp_path / "out"
    assert list(index_masks(out)) == [0, 1, 2, 3]
    assert video_length(out / "overlay.mp4") == 4
    assert len(json.loads((out / "masks.json").read_text())["objects"]["1"]) == 4
    assert len((out / "scores.csv").read_text().splitlines()) == 5
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == f"{message} {out}"


def test_a_bug_is_not_hidden_but_the_files_are_finished(
    run: Callable[..., int], predictor: FakePredictor, tmp_path: Path
) -> None:
    predictor.raises[2] = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        run("--point", "1,1")
    assert video_length(tmp_path / "out/overlay.mp4") == 2


def test_ctrl_c_before_tracking(
    run: Callable[..., int], predictor: FakePredictor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(_: str, **options: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "init_state", interrupted)
    assert run("--point", "1,1") == EXIT_INTERRUPTED
    assert not (tmp_path / "out").exists()


def test_a_prompt_that_the_predictor_refuses(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--point", "999,1") == cli.EXIT_ERROR
    assert capsys.readouterr().err.splitlines()[-1] == "i2vpp: error: points must lie inside the frame"
    assert not (tmp_path / "out").exists()


def test_results_are_not_overwritten_unasked(
    run: Callable[..., int], predictor: FakePredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--point", "1,1") == 0
    (tmp_path / "out/mine.txt").write_text("keep")
    predictor.built = {}
    assert run("--point", "1,1") == cli.EXIT_ERROR
    assert "is not empty; choose another folder or pass --overwrite" in capsys.readouterr().err
    assert not predictor.built  # found before the slow part
    assert run("--point", "999,1", "--overwrite") == cli.EXIT_ERROR
    assert len(index_masks(tmp_path / "out")) == FRAMES  # a run that never began deletes nothing
    assert run("--point", "1,1", "--overwrite", "--max-frames", "1", "--no-scores") == 0
    assert list(index_masks(tmp_path / "out")) == [0, 1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["masks", "mine.txt", "overlay.mp4"]


def test_an_empty_folder_is_fine_and_a_file_is_not(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    assert run("--point", "1,1") == 0
    assert cli.main(["track", "v", "-o", str(tmp_path / "out/scores.csv"), "--point", "1,1"]) == cli.EXIT_ERROR
    assert "is a file, not a folder" in capsys.readouterr().err


def test_object_ids_beyond_a_png_are_refused_before_the_slow_part(
    run: Callable[..., int], predictor: FakePredictor, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--point", "1,1,0,300", "--point", "1,1,0,256", "--point", "1,1") == cli.EXIT_ERROR
    assert "must be 1 to 255 in mask PNGs and overlays, got 256, 300" in capsys.readouterr().err
    assert not predictor.built


def test_a_missing_pycocotools_is_said_before_the_slow_part(
    run: Callable[..., int],
    predictor: FakePredictor,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    assert run("--point", "1,1", "--json") == cli.EXIT_ERROR
    assert 'pip install ".[coco]" in a clone' in capsys.readouterr().err
    assert not predictor.built


def test_a_video_file_end_to_end(predictor: FakePredictor, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "disc.mp4", moving_disc(5, HEIGHT, WIDTH)[0])
    assert cli.main(["track", str(clip), "-o", str(tmp_path / "deep/out"), "--box", "0,0,9,9", "--quiet"]) == 0
    assert predictor.video == str(clip)
    assert len(index_masks(tmp_path / "deep/out")) == 5


# The other commands


def test_the_demo_clip_and_its_prompts() -> None:
    clip = files("i2vpp") / "assets" / demo.CLIP
    assert len(clip.read_bytes()) < 600_000
    assert "Blender Foundation" in (files("i2vpp") / "assets" / "README.md").read_text()
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0))
    for prompt in demo.PROMPTS:
        inside = [*prompt.points, *([prompt.box[:2], prompt.box[2:]] if prompt.box else [])]
        assert all(0 <= x < frame.width and 0 <= y < frame.height for x, y in inside)


def test_demo(predictor: FakePredictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    assert cli.main(["demo", "-o", str(out), "--frames", "8", "--quiet", "--untrained"]) == 0
    assert predictor.built["config_file"] == "i2vpp-256"
    assert len(index_masks(out)) == video_length(out / "overlay.mp4") == 8
    with Image.open(out / "overlay.png") as sheet:
        assert sheet.width > sheet.height > 300
    printed = capsys.readouterr()
    assert str(out / "overlay.png") in printed.out
    assert cli.UNTRAINED in printed.err
    assert predictor.built["ckpt_path"] is None
    assert cli.main(["demo", "-o", str(out), "--frames", "8", "--quiet"]) == cli.EXIT_ERROR


def test_the_demo_takes_the_checkpoint_that_is_there_and_its_config(
    predictor: FakePredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "checkpoints/i2vpp-demo.pt"
    monkeypatch.setattr(model_choice, "demo_checkpoint", lambda: there)
    assert cli.main(["demo", "-o", str(tmp_path / "demo"), "--frames", "1", "--quiet"]) == 0
    assert (predictor.built["ckpt_path"], predictor.built["config_file"]) == (str(there), None)
    assert capsys.readouterr().err == f"i2vpp: weights: {there}\n"
    on_cpu = not torch.cuda.is_available() and not torch.backends.mps.is_available()
    assert predictor.built["hydra_overrides_extra"] == (demo.CPU_CONFIG if on_cpu else ())
    options = ["--frames", "1", "--quiet", "--config", "i2vpp-512"]
    assert cli.main(["demo", "-o", str(tmp_path / "other"), *options]) == 0
    assert (predictor.built["config_file"], predictor.built["hydra_overrides_extra"]) == ("i2vpp-512", ())


def test_the_demo_replaces_its_own_folder(
    predictor: FakePredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--frames", "3", "--quiet"]) == 0
    assert cli.main(["demo", "--frames", "1", "--quiet"]) == 0
    assert len(index_masks(cli.DEMO_FOLDER)) == 1


@pytest.mark.parametrize("command", ["track", "demo"])
def test_without_weights_nothing_is_tracked(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message says where weights come from; weights are drawn at random only where --untrained asks for it."""
    fake = FakePredictor()
    monkeypatch.setattr("i2vpp.build_i2vpp.build_i2vpp_video_predictor", fake.build)
    monkeypatch.setattr("i2vpp.weights.files.checkpoint_folders", lambda: [tmp_path / "checkpoints"])
    what = {"track": ["a folder", "--point", "1,1"], "demo": ["--frames", "1"]}[command]
    arguments = [command, *what, "-o", str(tmp_path / "out"), "--quiet"]
    assert cli.main(arguments) == cli.EXIT_ERROR
    (line,) = capsys.readouterr().err.splitlines()
    for words in ("error: there are no weights", "i2vpp download sam-i2vpp_32gpu", "i2vpp-demo", "--untrained"):
        assert words in line
    assert not (tmp_path / "out").exists()
    assert cli.main([*arguments, "--untrained"]) == 0
    assert fake.built["ckpt_path"] is None
    assert capsys.readouterr().err == f"i2vpp: {cli.UNTRAINED}\n"
    assert cli.main([*arguments, "--untrained", "--checkpoint", "x.pt"]) == cli.EXIT_USAGE
    assert "not allowed with" in capsys.readouterr().err


def test_untrained_weights_are_the_same_in_every_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(**_: Any) -> Any:
        return SimpleNamespace(device=torch.device("cpu"), image_size=64, weights=torch.rand(3))

    monkeypatch.setattr("i2vpp.build_i2vpp.build_i2vpp_video_predictor", build)
    before = torch.random.get_rng_state()
    first, second = (model_choice.build_predictor(model_choice.ModelChoice(config="i2vpp-256")) for _ in range(2))
    assert torch.equal(first.weights, second.weights)  # type: ignore[attr-defined]
    assert torch.equal(torch.random.get_rng_state(), before)


def test_info(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pt"
    torch.save({"model": {"image_encoder.weight": torch.zeros(1000, 2), "other": torch.zeros(3)}}, path)
    assert cli.main(["info", str(path)]) == 0
    table = capsys.readouterr().out
    expected = (f"path            {path}", "num parameters  2,003", "image size      not known", "... and ")
    for line in (*expected, "card            none", f"parts           image_encoder  {'2,000':>14}"):
        assert line in table
    assert cli.main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_entries"] == 2
    assert cli.main(["info", str(tmp_path / "missing.pt")]) == cli.EXIT_ERROR
    assert "missing.pt" in capsys.readouterr().err


def test_info_shows_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "w.pt"
    card = {"licence": "research only", "limits": f"{'small ' * 20}\nand slow"}
    torch.save({"model": {"weight": torch.zeros(2)}, "card": card}, path)
    assert cli.main(["info", str(path)]) == 0
    wide = "small " * 13
    shown = [f"licence  {card['licence']}", f"limits   {wide.strip()}", f"         {'small ' * 7}".rstrip()]
    begin = "card            "
    lines = [begin + shown[0], *(" " * len(begin) + text for text in [*shown[1:], "         and slow"])]
    assert "\n".join(lines) in capsys.readouterr().out
    assert cli.main(["info", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["card"] == card


def test_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(i2vpp.weights.download, "download", lambda name, folder: Path(folder) / f"{name}.pt")
    monkeypatch.setattr(
        i2vpp.weights.download, "download_all", lambda folder: [Path(folder) / "a.pt", Path(folder) / "b.pt"]
    )
    assert cli.main(["download", "sam-i2vpp_32gpu"]) == 0
    printed = capsys.readouterr()
    assert printed.out == "checkpoints/sam-i2vpp_32gpu.pt\n"
    assert printed.err.startswith("i2vpp: sam-i2vpp_32gpu.pt: no SHA-256 is known to compare it with")
    for option in ("-o", "--output", "--folder"):  # the last one is the published spelling
        assert cli.main(["download", "all", option, str(tmp_path)]) == 0
        printed = capsys.readouterr()
        assert printed.out == f"{tmp_path / 'a.pt'}\n{tmp_path / 'b.pt'}\n"
        assert "i2vpp: tinysam.pth: no SHA-256 is known to compare it with" in printed.err


def test_an_unknown_download(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["download", "sam3"]) == cli.EXIT_ERROR
    assert "unknown checkpoint 'sam3'" in capsys.readouterr().err


def test_output_that_nobody_reads_on_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from i2vpp.cli import main; sys.exit(main(['info', 'i2vpp-demo']))"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (cli.EXIT_BROKEN_PIPE, "")
