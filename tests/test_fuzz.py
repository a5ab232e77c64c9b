"""A few hundred inputs that are wrong somewhere: each is used or refused in a line; see `fuzz.py`.

To see one finding alone, call its target with the number that the message names: `attempt(draws(target, number))()`.
"""

from __future__ import annotations

import io
import random
import shutil
import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data_files import SQUARE, build, rle, write_image, write_json, write_mask
from fuzz import (
    NASTY_NUMBERS,
    NASTY_TEXTS,
    NASTY_VALUES,
    draws,
    findings,
    judge,
    mutated_arguments,
    mutated_bytes,
    mutated_json,
    mutated_text,
)
from i2vpp import cli
from i2vpp.checkpoint import load_checkpoint, save_checkpoint
from i2vpp.config import load_config
from i2vpp.errors import I2VPPError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from i2vpp.session.video import open_source
from media import moving_disc, write_video
from models import make_predictor, make_shallow
from sav_dataset import sav_evaluator
from training import train
from training.config import ClipConfig, DataConfig, SourceConfig
from training.dataset import validate
from training.dataset.build import build_source
from training.dataset.loader import build_loader
from training.dataset.plan import EpochPlan
from training.recipes import load_recipe

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPO = Path(__file__).resolve().parent.parent
HEIGHT, WIDTH, NUM_FRAMES = 48, 64, 3
FRAMES, MASKS = moving_disc(NUM_FRAMES, HEIGHT, WIDTH, seed=3)
Call = Callable[[], Any]


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return make_shallow(make_predictor(dtype="float32"))


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(FRAMES):
        Image.fromarray(frame).save(folder / f"{i:05d}.png")
    return folder


@pytest.fixture
def run_track(
    frames: Path, tmp_path: Path, predictor: I2VPPVideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """`i2vpp track` of the frames, with a small network that is built once."""
    monkeypatch.setattr("i2vpp.build_i2vpp.build_i2vpp_video_predictor", lambda **_: predictor)
    base = [str(frames), "-o", str(tmp_path / "out"), "--overwrite", "--untrained", "--quiet", "--no-overlay"]
    return lambda *arguments: cli.main(["track", *base, "--max-frames", "1", *arguments])


def check(target: str, count: int, attempt: Callable[[random.Random], Call], *, good: Call) -> None:
    """Try the inputs of a target, after one that is right and is used: all others are made from it."""
    assert good() in (None, 0)
    found = findings(target, count, attempt)
    assert not found, f"{len(found)} findings:\n" + "\n".join(found)


# ---- prompts


PROMPTS = [
    {"frame": 0, "object": 1, "points": [[20, 24], [40, 10]], "labels": [1, 0], "box": [4, 10, 40, 40]},
    {"frame": 1, "object": 2, "mask": "mask.png"},
    {"points": [[10, 12]]},
]


def test_prompt_files(run_track: Callable[..., int], tmp_path: Path) -> None:
    write_mask(tmp_path / "mask.png", MASKS[1] * 1)
    file = write_json(tmp_path / "prompts.json", PROMPTS)

    def attempt(draw: random.Random) -> Call:
        file.write_bytes(mutated_json(draw, PROMPTS))
        return lambda: run_track("--prompts", str(file))

    check("prompt file", 60, attempt, good=lambda: run_track("--prompts", str(file)))


def test_values_at_the_programming_interface(predictor: I2VPPVideoPredictor) -> None:
    good: dict[str, list[Any]] = {
        "frame_idx": [0, 1, np.int64(1), np.uint8(2), torch.tensor(1)],
        "obj_id": [1, 2, np.int32(3), torch.tensor(4), 0, -5, 2**40],
        "points": [[[20, 24]], np.array([[20.5, 24]]), torch.tensor([[20, 24], [3, 4]]), None],
        "labels": [[1], np.array([0]), torch.tensor([1, 0]), None],
        "box": [[4, 10, 40, 40], np.array([[4, 10], [40, 40]]), None, None],
        "mask": [MASKS[0], MASKS[0] * 255, torch.tensor(MASKS[0])[None], MASKS[0].astype(np.float16)],
        "start_frame_idx": [None, 0, np.int16(1)],
        "max_frame_num_to_track": [None, 0, 1, np.uint8(1)],
    }
    odd: list[Any] = [
        *NASTY_VALUES, np.zeros((0, 2)), np.zeros((3, 2)), np.full((1, 2), np.nan), np.zeros((HEIGHT, WIDTH, 3), bool),
        MASKS[0][::-1], np.asfortranarray(MASKS[0]), MASKS[0].astype(">f4"), MASKS[0].astype(object), np.array("x"),
        torch.zeros(HEIGHT, WIDTH, dtype=torch.bfloat16), torch.zeros(1, 2, dtype=torch.complex64), np.float64(1),
        Image.fromarray(MASKS[0]), object(), lambda: 0, b"bytes", {1, 2}, range(2), [[1, 2], [3]], 1 + 2j,
        np.zeros((HEIGHT, WIDTH), np.complex64), torch.zeros(2, 2).to_sparse(), np.datetime64("2020"),
        np.ma.masked_array([[1, 2]], [[True, False]]),
    ]  # fmt: skip

    def attempt(draw: random.Random) -> Call:
        def value(name: str) -> Any:
            return draw.choice(odd if draw.random() < 0.3 else good[name])

        kind = draw.randrange(4)
        prompt = {name: value(name) for name in ("frame_idx", "obj_id", "points", "labels", "box")}
        drawn = {name: value(name) for name in ("frame_idx", "obj_id", "mask")}
        way = {name: value(name) for name in ("start_frame_idx", "max_frame_num_to_track")}
        taken = {name: value(name) for name in ("frame_idx", "obj_id")}

        def call() -> None:
            with predictor.init_state(FRAMES) as state:
                predictor.add_new_mask(state, 0, 1, MASKS[0])
                if kind == 0:
                    predictor.add_new_points_or_box(state, **prompt)
                elif kind == 1:
                    predictor.add_new_mask(state, **drawn)
                elif kind == 2:
                    predictor.clear_all_prompts_in_frame(state, **taken)
                    predictor.remove_object(state, taken["obj_id"])
                else:
                    run(predictor.propagate_in_video(state, progress=False, **way))
                assert_consistent(predictor, state)

        return call

    def use() -> None:
        with predictor.init_state(FRAMES) as state:
            for mask in good["mask"]:
                predictor.add_new_mask(state, 0, 1, mask)
            for points, labels in zip(good["points"], ([1], np.array([0]), torch.tensor([1, 0]), None), strict=True):
                box = None if points is not None else good["box"][1]
                predictor.add_new_points_or_box(state, 0, 1, points=points, labels=labels, box=box)
            run(predictor.propagate_in_video(state, progress=False))

    check("values", 150, attempt, good=use)


def run(results: Iterable[Any]) -> None:
    for _ in results:
        pass


def assert_consistent(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    """What was accepted gives ids that are plain integers, and masks that are numbers."""
    if not any(track.clicks for track in state.tracks.values()):
        return
    result = predictor.track_frame(state, 1)
    assert all(type(obj_id) is int for obj_id in result.obj_ids), result.obj_ids
    assert len(set(result.obj_ids)) == len(result.obj_ids)
    assert not result.masks.isnan().any()


def test_frames_at_the_programming_interface(predictor: I2VPPVideoPredictor) -> None:
    frame = FRAMES[0]
    odd: list[Any] = [
        *NASTY_VALUES[:40], frame[..., 0], frame[..., :2], frame.astype(np.float32) / 255, frame * 1.0, frame[:, ::-1],
        frame[:20], frame.astype(">u2"), np.zeros((0, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH, 3), bool),
        torch.tensor(frame).permute(2, 0, 1), torch.zeros(HEIGHT, WIDTH, 3, dtype=torch.bfloat16), Path("no such file"),
        torch.zeros(HEIGHT, WIDTH, 3).to_sparse(), Image.fromarray(frame).convert("CMYK"), b"bytes",
        Image.fromarray(frame).convert("LA"), np.full((HEIGHT, WIDTH, 3), np.nan), Image.new("RGB", (1, 1)),
        Image.new("I;16", (WIDTH, HEIGHT), 9), Image.new("F", (WIDTH, HEIGHT), 9),
    ]  # fmt: skip

    def attempt(draw: random.Random) -> Call:
        video: list[Any] = [draw.choice(odd) if draw.random() < 0.5 else one for one in FRAMES]
        given = draw.choice((lambda: video, lambda: iter(video), lambda: tuple(video), lambda: draw.choice(odd)))()

        def call() -> None:
            with predictor.init_state(given) as state:
                predictor.add_new_points_or_box(state, 0, 1, points=[[0, 0]], labels=[1])
                run(predictor.propagate_in_video(state, progress=False))

        return call

    check("frames", 60, attempt, good=lambda: predictor.init_state(iter(FRAMES)).close())


# ---- mask files


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def image_bytes(draw: random.Random, mask: np.ndarray) -> bytes:
    """An image of any kind that Pillow writes, or one that claims to be what it is not, and often damaged."""
    size = (mask.shape[1], mask.shape[0])
    mode = draw.choice(("1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I", "F", "CMYK"))
    name = draw.choice(("PNG", "PNG", "PNG", "TIFF", "WEBP", "JPEG", "GIF", "BMP"))
    values = mask.astype(np.uint8) * draw.choice((1, 2, 254, 255))
    if draw.random() < 0.3:
        values = np.array(draw.choices(range(draw.choice((2, 5, 40, 256))), k=mask.size), np.uint8).reshape(mask.shape)
    image = Image.fromarray(values)
    if draw.random() < 0.2:
        image = image.resize((draw.choice((1, 7, size[0])), draw.choice((1, 300))))
    written = io.BytesIO()
    try:
        image.convert(mode).save(written, name, save_all=name in ("TIFF", "WEBP", "GIF"))
    except (OSError, ValueError):  # this format does not hold this mode
        image.save(written, "PNG")
    data = written.getvalue()
    if draw.random() < 0.1:
        width, height = draw.choice(((0, 0), (2**31 - 1, 1), (60000, 60000), (9000, 9000), (2**32 - 1, 2**32 - 1)))
        header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, draw.choice((0, 2, 3)), 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(10))) + png_chunk(b"IEND", b"")
    return mutated_bytes(draw, data) if draw.random() < 0.4 else data


def test_mask_files(run_track: Callable[..., int], tmp_path: Path) -> None:
    def attempt(draw: random.Random) -> Call:
        file = tmp_path / draw.choice(("mask.png", "mask.webp", "mask.tif"))
        file.write_bytes(image_bytes(draw, MASKS[0]))
        return lambda: run_track("--mask", str(file) + draw.choice(("", ",1", ",0,3")))

    file = write_mask(tmp_path / "good.png", MASKS[0] * 1)
    check("mask file", 60, attempt, good=lambda: run_track("--mask", str(file)))


# ---- videos


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "libx264"), (".mkv", "ffv1"), (".avi", "mpeg4")])
def test_videos(suffix: str, codec: str, tmp_path: Path) -> None:
    data = write_video(tmp_path / f"good{suffix}", moving_disc(8, HEIGHT, WIDTH)[0], codec=codec).read_bytes()
    file = tmp_path / f"video{suffix}"
    file.write_bytes(data)

    def attempt(draw: random.Random) -> Call:
        file.write_bytes(mutated_bytes(draw, data))
        backwards = draw.random() < 0.3
        return lambda: read_video(file, backwards=backwards)

    check(f"video {suffix}", 25, attempt, good=lambda: read_video(file, least=8))


def read_video(file: Path, *, backwards: bool = False, least: int = 0) -> None:
    """Read all frames of a file, of which all but the least number may be bad."""
    source, read = open_source(str(file)), 0
    try:
        order = range(len(source))
        for i in order[::-1] if backwards else order:
            try:
                frame = source[i]
            except I2VPPError as error:
                assert judge_of(error) is None, judge_of(error)
                continue
            assert frame.dtype == np.uint8
            assert frame.shape == (source.height, source.width, 3)
            read += 1
    finally:
        source.close()
    assert read >= least


def judge_of(error: I2VPPError) -> str | None:
    def again() -> None:
        raise error

    return judge(again)


def test_images_as_frames(run_track: Callable[..., int], frames: Path) -> None:
    def attempt(draw: random.Random) -> Call:
        for i, frame in enumerate(FRAMES):
            Image.fromarray(frame).save(frames / f"{i:05d}.png")
        (frames / f"{draw.randrange(NUM_FRAMES):05d}.png").write_bytes(image_bytes(draw, MASKS[0]))
        return lambda: run_track("--point", "20,24")

    check("frame folder", 30, attempt, good=lambda: run_track("--point", "20,24"))


# ---- training data


def assert_loads(config: SourceConfig) -> None:
    """As a run reads it: what is wrong with an item is a failure of that item, counted."""
    data = DataConfig(sources={"mine": config}, max_failures=3, workers=0)
    sources = {"mine": build_source("mine", config)}
    plan = EpochPlan({"mine": len(sources["mine"])}, data.sources, seed=1, epoch=0, world_size=1)
    for loaded in build_loader(sources, data, plan, rank=0, image_size=32):
        for failure in loaded.failures:
            assert "\n" not in failure


def validated(arguments: list[str]) -> int:
    """Run the validator; items that are broken, which it prints, are no error of its own."""
    status = validate.main(arguments)
    return 0 if status == validate.EXIT_BROKEN else status


def training_target(kind: str, images: Path, annotations: Path | None = None) -> Call:
    """Load a dataset as a run does, and validate it."""
    config = SourceConfig(
        kind=kind,
        images=str(images),
        annotations=None if annotations is None else str(annotations),
        batch_size=2,
        clip=ClipConfig(num_frames=2),
    )
    named = [] if annotations is None else ["--annotations", str(annotations)]
    command = ["--kind", kind, "--images", str(images), "--workers", "0", *named]

    def call() -> int:
        try:
            assert_loads(config)
        except I2VPPError as error:
            assert judge_of(error) is None, judge_of(error)
        return validated(command)

    return call


def whole_data(kind: str, images: Path, annotations: Path | None = None) -> Call:
    """The same of data in which nothing is broken."""
    report = lambda: validate.validate_source(build(kind, images, annotations=annotations))  # noqa: E731
    target = training_target(kind, images, annotations)
    return lambda: len(report().problems) or target()


def test_coco_files(tmp_path: Path) -> None:
    images = tmp_path / "images"
    for name in ("a", "b"):
        write_image(images / f"{name}.jpg")
    squares = [[2, 1, 5, 1, 5, 4, 2, 4]]
    good = {
        "images": [{"id": i, "file_name": f"{name}.jpg", "height": 6, "width": 8} for i, name in enumerate("ab")],
        "annotations": [
            {"id": 10, "image_id": 0, "iscrowd": 0, "category_id": 1, "segmentation": squares, "bbox": [2, 1, 3, 3]},
            {"id": 11, "image_id": 1, "iscrowd": 0, "category_id": 1, "segmentation": rle(SQUARE), "area": 9},
            {"id": 12, "image_id": 1, "iscrowd": 1, "category_id": 1, "segmentation": rle(SQUARE)},
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    file = write_json(tmp_path / "instances.json", good)

    def attempt(draw: random.Random) -> Call:
        file.write_bytes(mutated_json(draw, good))
        return training_target("coco", images, file)

    check("coco", 60, attempt, good=whole_data("coco", images, file))


def compressed(draw: random.Random) -> dict[str, Any]:
    """Run lengths as SA-V and SA-1B write them, of a mask or damaged."""
    text = draw.choice(("73Q1", "", "0", "o" * 40, "P" * 20, "73Q1\n", "\x7f\x7f", "ÿ", "`" * 13, "1" * 3000))
    return {"size": draw.choice(([6, 8], [6, 8], [8, 6], [2**40, 2**40], [6], "6x8", [-6, -8], [0, 0])), "counts": text}


def test_sa1b_files(tmp_path: Path) -> None:
    write_image(tmp_path / "sa_1.jpg")
    write_image(tmp_path / "sa_2.jpg")
    good = {
        "image": {"image_id": 1, "width": 8, "height": 6, "file_name": "sa_1.jpg"},
        "annotations": [{"id": 4, "segmentation": rle(SQUARE), "area": 9}, {"id": 5, "segmentation": rle(~SQUARE)}],
    }
    for name in ("sa_1", "sa_2"):
        write_json(tmp_path / f"{name}.json", good)

    def attempt(draw: random.Random) -> Call:
        value = {**good, "annotations": [*good["annotations"], {"id": 6, "segmentation": compressed(draw)}]}
        (tmp_path / "sa_1.json").write_bytes(mutated_json(draw, value if draw.random() < 0.5 else good))
        return training_target("sa1b", tmp_path)

    check("sa1b", 40, attempt, good=whole_data("sa1b", tmp_path))


def test_sav_files(tmp_path: Path) -> None:
    write_video(tmp_path / "sav_000001.mp4", moving_disc(5, HEIGHT, WIDTH)[0])
    masks = [np.pad(SQUARE, ((0, HEIGHT - 6), (0, WIDTH - 8)))] * 2
    good = {
        "video_id": "sav_000001",
        "video_frame_count": 5.0,
        "video_height": float(HEIGHT),
        "video_width": float(WIDTH),
        "masklet": [[rle(masks[0]), rle(~masks[0])], [rle(masks[1]), rle(~masks[1])]],
        "masklet_num": 2,
    }
    write_json(tmp_path / "sav_000001_manual.json", good)

    def attempt(draw: random.Random) -> Call:
        value = {**good, "masklet": [[compressed(draw)], [rle(masks[0])]]} if draw.random() < 0.3 else good
        (tmp_path / "sav_000001_manual.json").write_bytes(mutated_json(draw, value))
        return training_target("sav", tmp_path)

    check("sav", 40, attempt, good=whole_data("sav", tmp_path))


def test_palette_videos(tmp_path: Path) -> None:
    images, masks = tmp_path / "JPEGImages", tmp_path / "Annotations"
    for t in range(2):
        write_image(images / "bear" / f"{t}.jpg")
        write_mask(masks / "bear" / f"{t}.png", SQUARE * 3)

    def attempt(draw: random.Random) -> Call:
        for t in range(2):
            write_mask(masks / "bear" / f"{t}.png", SQUARE * 3)
        (masks / "bear" / f"{draw.randrange(2)}.png").write_bytes(image_bytes(draw, SQUARE))
        return training_target("palette", images)

    check("palette", 30, attempt, good=whole_data("palette", images))


# ---- evaluation


def test_masks_to_be_scored(tmp_path: Path) -> None:
    truth, found = tmp_path / "truth", tmp_path / "found"
    base = ["--gt_root", str(truth), "--pred_root", str(found), "--num_processes", "1"]

    def write() -> None:
        for root in (truth, found):
            shutil.rmtree(root, ignore_errors=True)
            for t in range(3):
                write_mask(root / "bear" / f"{t:05d}.png", SQUARE * 1)

    def attempt(draw: random.Random) -> Call:
        write()
        broken = draw.choice((truth, found)) / "bear" / draw.choice(("00000.png", "00001.png", "1.png", "00003.png"))
        broken.write_bytes(image_bytes(draw, SQUARE))
        options = draw.choice(([], ["--strict"], ["--merge_objects"], ["--do_not_skip_first_and_last_frame"]))
        return lambda: sav_evaluator.main([*base, *options])

    write()
    check("scored masks", 40, attempt, good=lambda: sav_evaluator.main(base))


# ---- configs, checkpoints


CONFIG = """\
# a config
model:
  image_size: 256
  fill_hole_area: 8
  memory_pooling: 1
  selection:
    mode: top
    num_global: 4
    num_local: 2
    global_window: 200
"""


def test_configs(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG, encoding="utf-8")
    words = ["model.selection.mode=recent", "++model.fill_hole_area=0"]

    def attempt(draw: random.Random) -> Call:
        file.write_bytes(mutated_text(draw, CONFIG))
        overrides = mutated_arguments(draw, words) if draw.random() < 0.4 else []
        return lambda: load_config(str(file), overrides)

    def good() -> None:
        assert load_config(str(file), words).model.fill_hole_area == 0

    check("config", 100, attempt, good=good)


def test_recipes(tmp_path: Path) -> None:
    text = (REPO / "configs" / "i2vpp-smoke.yaml").read_text(encoding="utf-8")
    file = tmp_path / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    options = ["-c", str(file), "--num-gpus", "0", f"run.folder={tmp_path}/run"]

    def attempt(draw: random.Random) -> Call:
        file.write_bytes(mutated_text(draw, text))
        overrides = mutated_arguments(draw, ["run.epochs=2", "run.seed=5"]) if draw.random() < 0.4 else []
        if draw.random() < 0.7:
            return lambda: load_recipe(file, overrides)
        command = mutated_arguments(
            draw, ["-c", str(file), "--dry-run", "--num-gpus", "0", f"run.folder={tmp_path}/run"]
        )
        return lambda: train.main([*command, "--dry-run"])

    check("recipe", 40, attempt, good=lambda: train.main([*options, "--dry-run"]))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_checkpoints(suffix: str, tmp_path: Path) -> None:
    """A damaged file is refused, or the damage has hit nothing that is read."""
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    file = tmp_path / f"weights{suffix}"
    save_checkpoint(model, file, image_size=64)
    data, wanted = file.read_bytes(), {name: value.clone() for name, value in model.state_dict().items()}

    def load() -> None:
        with torch.no_grad():
            for value in model.state_dict().values():
                value.zero_()
        load_checkpoint(model, file)
        for name, value in model.state_dict().items():
            assert torch.equal(value, wanted[name]), f"{name} has other values, and nothing was said"

    def attempt(draw: random.Random) -> Call:
        file.write_bytes(mutated_bytes(draw, data))
        return load

    check(f"checkpoint {suffix}", 60, attempt, good=load)


# ---- command lines


def test_command_lines(
    run_track: Callable[..., int], tmp_path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    out = str(tmp_path / "out")
    write_mask(tmp_path / "mask.png", MASKS[0] * 1)
    torch.save({"model": {"x": torch.ones(2)}}, tmp_path / "other.pt")
    alone = ["track", str(frames), "-o", out, "--overwrite", "--untrained", "--point", "20,24", "--quiet"]
    lines: list[tuple[Callable[[list[str]], int], list[str]]] = [  # the first four are right
        (
            lambda options: run_track(*options),
            ["--point", "20,24,0,1", "--negative", "40,10,0,1", "--box", "4,10,40,40,1,2", "--json"],
        ),
        (
            lambda options: run_track(*options),
            ["--mask", "mask.png,0,1", "--start-frame", "1", "--reverse", "--dtype", "float32", "--device", "cpu"],
        ),
        (
            lambda options: run_track(*options),
            ["--point", "20,24", "--both", "--seed", "3", "--override", "model.image_size=64", "--no-masks"],
        ),
        (cli.main, alone),
        (cli.main, ["info", "other.pt", "--json"]),
        (sav_evaluator.main, ["--gt_root", str(frames), "--pred_root", out, "--worst", "3", "--rule", "davis"]),
        (lambda options: validated([*options, "--workers", "0"]), ["--kind", "palette", "--images", str(frames)]),
    ]

    def attempt(draw: random.Random) -> Call:
        command, words = draw.choice(lines)
        given = mutated_arguments(draw, words)
        return lambda: command(given)

    def good() -> int:
        return max(command(words) for command, words in lines[:4])

    check("command line", 100, attempt, good=good)


# ---- the harness itself


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.SECONDS", 0.2)


def forever() -> None:
    while True:
        pass


def command(status: int, said: str) -> Call:
    def call() -> int:
        import sys

        sys.stderr.write(said)
        return status

    return call


def raising(error: BaseException) -> Call:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(("call", "finding"), [
    (raising(KeyError("x")), "KeyError: 'x'"),
    (raising(RecursionError("deep")), "RecursionError: deep"),
    (raising(I2VPPError("")), "without words"),
    (raising(I2VPPError("one", "two")), "several lines"),
    (raising(I2VPPError("x " * 1000)), "2000 characters"),
    (raising(SystemExit(3)), "exit status 3"),
    (lambda: bytearray(2**40), "MemoryError"),
    (forever, "takes more than 0.2 s"),
    (command(1, "Traceback (most recent call last):\n"), "a traceback"),
    (command(2, "usage: x\nwhat?\n"), "without one line of error"),
    (command(2, "error: one\nerror: two\n"), "without one line of error"),
    (raising(I2VPPError("mask.png is empty")), None),
    (command(2, "usage: x\n       [-h]\nx: error: what?\n"), None),
    (command(1, "error: no such file\n"), None),
    (command(0, "anything\n"), None),
    (lambda: "a result", None),
])  # fmt: skip
@pytest.mark.usefixtures("short")
def test_the_judge(call: Call, finding: str | None) -> None:
    problem = judge(call)
    assert problem is None if finding is None else problem is not None and finding in problem


def test_inputs_are_the_same_in_every_run() -> None:
    makers: list[Callable[[random.Random], Any]] = [
        lambda draw: mutated_json(draw, PROMPTS),
        lambda draw: mutated_text(draw, CONFIG),
        lambda draw: mutated_arguments(draw, ["--point", "20,24"]),
        lambda draw: image_bytes(draw, MASKS[0]),
    ]
    for make in makers:
        once, again = ([make(draws("x", number)) for number in range(50)] for _ in range(2))
        assert once == again
        assert len(set(map(str, once))) > 20
    assert len({*NASTY_TEXTS}) == len(NASTY_TEXTS)
    assert NASTY_NUMBERS
