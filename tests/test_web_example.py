"""The tracker in the browser, `examples/web`: its modules against Python, its messages, and the page as it is used."""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import json
import re
import shutil
import subprocess
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")

from annotate_page import chromium, expect
from exported import REPO, clip_frames, demo_predictor, export_demo, torch_tracker, write_manifest
from i2vpp.export import i2vpp_onnx
from i2vpp.export.i2vpp_onnx import I2VPPOnnx, Memory, Track
from web_page import SESSION, WEB, copy_page, from_text, serve, to_rgba, to_text

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

RABBIT, BOULDER = [59, 63, 131, 140], [15, 93, 60, 134]
SIDE = 32
SHORT = ("model.selection.global_window=5", "model.selection.local_window=3", "model.selection.num_global=2")
PAGE_SIDE, PAGE_FRAMES = 256, 10
INSTALL_SECONDS = 300
TRACK_MS = 600_000.0


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as opened:
        yield opened


@pytest.fixture
def modules(browser: Browser) -> Iterator[Page]:
    """A page that may import the modules."""
    with serve(WEB) as url:
        page = browser.new_page()
        page.goto(f"{url}style.css")
        yield page
        page.close()


def test_random_numbers_are_those_of_numpy(modules: Page) -> None:
    entropies = [[0, 0, 0], [0, 12, 1], [7, 2**33 + 5, 1], [2**32 - 1, 1, 2, 3, 4]]
    found = modules.evaluate(
        """async (entropies) => {
          const { Generator } = await import("/random.js");
          return entropies.map((entropy) => {
            const generator = new Generator(entropy);
            return [String(generator.next()), Array.from({ length: 300 }, () => generator.gumbel())];
          });
        }""",
        entropies,
    )
    for entropy, (bits, noise) in zip(entropies, found, strict=True):
        generator = np.random.default_rng(entropy)
        assert int(bits) == int(generator.bit_generator.random_raw())  # type: ignore[attr-defined]
        np.testing.assert_allclose(noise, generator.gumbel(size=300), rtol=0, atol=1e-13)


def test_the_same_memories_are_drawn(modules: Page, tmp_path: Path) -> None:
    """On frames before, within and beyond the windows; similarities are made up."""
    tracker, generator = torch_tracker(tmp_path, demo_predictor()), np.random.default_rng(0)
    nothing = Memory(np.zeros(1), np.zeros(1), np.zeros(1))
    drawn = 0
    for t in (1, 2, 6, 9, 40, 230, 1000):
        frames = range(max(0, t - tracker.manifest["selection"]["window"]), t)
        track = Track({f: nothing for f in (0, 7) if f < t}, {f: nothing for f in frames if f not in (0, 7)})
        tracker.frame_idx = t
        tracker._keys = {f: generator.normal(size=16).astype(np.float32) for f in (*frames, 0, t)}
        similarity = {str(f): float(key @ tracker._keys[t]) / 16 for f, key in tracker._keys.items()}
        expected = tracker._select(track)
        found = modules.evaluate(
            """async ({ config, t, prompted, tracked, similarity }) => {
              const { select } = await import("/selection.js");
              const stored = (frames) => new Map(frames.map((frame) => [frame, null]));
              const track = { prompted: stored(prompted), tracked: stored(tracked) };
              const picks = select(config, t, track, (frame) => similarity[frame]);
              return picks.map(({ frame, slot, offset, weight }) => [frame, slot, offset, weight]);
            }""",
            {
                "config": tracker.manifest["selection"],
                "t": t,
                "prompted": list(track.prompted),
                "tracked": list(track.tracked),
                "similarity": similarity,
            },
        )
        assert found == [list(pick) for pick in expected], f"frame {t}"
        drawn += len(frames) > 10
    assert drawn >= 3


def test_pictures_and_masks_are_resized_as_in_python(modules: Page) -> None:
    generator = np.random.default_rng(0)
    manifest = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    for height, width in ((70, 111), (20, 150), (SIDE, SIDE)):
        frame = generator.integers(0, 256, (height, width, 3), np.uint8)
        drawn = generator.random((height, width)) > 0.9
        logits = generator.normal(size=(16, 16)).astype(np.float32)
        found = modules.evaluate(
            """async ({ frame, drawn, logits, height, width, side, manifest }) => {
              const image = await import("/image.js");
              const pixels = image.resizeFrame({ data: Uint8ClampedArray.from(frame), width, height }, side);
              return {
                pixels: Array.from(pixels),
                input: Array.from(image.normalise(pixels, manifest)),
                mask: Array.from(image.fitMask(Uint8Array.from(drawn), [height, width], side)),
                shown: Array.from(image.resizeLinear(Float32Array.from(logits), 16, [height, width])),
                rounded: Array.from(image.fromBfloat16(image.toBfloat16(Float32Array.from(logits)))),
              };
            }""",
            {
                "frame": to_rgba(frame).ravel().tolist(),
                "drawn": drawn.ravel().astype(int).tolist(),
                "logits": logits.ravel().tolist(),
                "height": height,
                "width": width,
                "side": SIDE,
                "manifest": manifest,
            },
        )
        expected = i2vpp_onnx.resize_frame(frame, SIDE)
        assert np.array_equal(np.reshape(found["pixels"], (SIDE, SIDE, 4))[..., :3], expected)
        assert np.array_equal(np.float32(found["input"]), i2vpp_onnx.normalise(expected, manifest).ravel())
        assert np.array_equal(found["mask"], i2vpp_onnx.fit_mask(drawn, SIDE).ravel())
        shown = i2vpp_onnx.resize_linear(logits, (height, width)).ravel()
        np.testing.assert_allclose(found["shown"], shown, rtol=0, atol=1e-6)
        rounded = i2vpp_onnx.from_bfloat16(i2vpp_onnx.to_bfloat16(logits))
        assert np.array_equal(np.float32(found["rounded"]), rounded.ravel())


def prompts(shape: tuple[int, int]) -> list[tuple[int, str, int, Any]]:
    """Frame, method, object and argument: points, boxes, masks, several objects, one of them added late."""
    drawn, dot = np.zeros((2, *shape), bool)
    drawn[93:134, 15:60] = dot[50:52, 30:32] = True
    return [
        (0, "add_points_or_box", 1, {"box": RABBIT, "points": [[120, 82]], "labels": [0]}),
        (0, "add_points_or_box", 1, {"points": [[100, 100]], "labels": [1], "clear_old_points": False}),
        (0, "add_mask", 2, drawn),
        (0, "add_mask", 4, dot),
        (3, "add_points_or_box", 3, {"points": [[36, 114]], "labels": [1]}),
        (5, "add_points_or_box", 1, {"points": [[95, 105]], "labels": [1]}),
        (5, "add_mask", 3, np.zeros(shape, bool)),
        (6, "remove_object", 2, None),
        (7, "add_points_or_box", 3, {"box": BOULDER}),
    ]


def in_javascript(name: str) -> str:
    return re.sub(r"_(.)", lambda found: found[1].upper(), name)


def test_a_session_equals_that_of_python(modules: Page, tmp_path: Path) -> None:
    """The graphs of both are run by PyTorch; with short windows, memories are drawn soon."""
    frames = [frame[::2, ::2] for frame in clip_frames(10)]
    tracker = torch_tracker(tmp_path, demo_predictor(*SHORT))
    steps, expected = prompts(frames[0].shape[:2]), []
    for i, frame in enumerate(frames):
        expected.append(tracker.step(frame))
        for _, name, obj_id, argument in (step for step in steps if step[0] == i):
            arguments = argument if isinstance(argument, dict) else {} if argument is None else {"mask": argument}
            result = getattr(tracker, name)(obj_id, **arguments)
            expected += [] if result is None else [result]

    def run_graph(graph: str, sent: list[tuple[str, str, list[int]]]) -> list[tuple[str, str]]:
        feeds = {name: from_text(data).reshape(dims).copy() for name, data, dims in sent}
        names = [port["name"] for port in tracker.manifest["graphs"][graph]["outputs"]]
        return list(zip(names, map(to_text, tracker.session(graph).run(None, feeds)), strict=True))

    modules.expose_function("runGraph", run_graph)
    translated = []
    for i, name, obj_id, argument in steps:
        given = {in_javascript(k): v for k, v in argument.items()} if isinstance(argument, dict) else argument
        translated.append([i, in_javascript(name), obj_id, to_text(given) if name == "add_mask" else given])
    found = modules.evaluate(
        SESSION,
        {
            "manifest": tracker.manifest,
            "frames": [to_text(to_rgba(frame)) for frame in frames],
            "height": frames[0].shape[0],
            "width": frames[0].shape[1],
            "steps": translated,
        },
    )
    for a, b in zip(expected, found, strict=True):
        assert (a.frame_idx, a.obj_ids) == (b["frame"], b["objIds"])
        for obj_id, logits, text in zip(a.obj_ids, a.masks, b["masks"], strict=True):
            differing = int(((logits > 0) != from_text(text, "bool").reshape(logits.shape)).sum())
            assert differing <= 3, f"object {obj_id} on frame {a.frame_idx} differs by {differing} pixels"
        np.testing.assert_allclose(b["scores"], a.object_scores, atol=1e-3)
        np.testing.assert_allclose(b["ious"], a.predicted_ious, atol=1e-3)
    assert sum(len(result.obj_ids) for result in expected) > 40


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "nothing to prompt with"),
        ({"points": None, "labels": None, "box": None}, "nothing to prompt with"),
        ({"points": [[1, 1]], "labels": [2]}, "one per point"),
        ({"points": [[1, 1, 1]], "labels": [1]}, "one per point x, y"),
        ({"points": [[-9, 1]], "labels": [1]}, "must lie in the frame, which is 6 wide and 4 high"),
        ({"points": [[float("nan"), 1]], "labels": [1]}, "must lie in the frame"),
        ({"box": [5, 2, 5, 3]}, "x0 < x1"),
        ({"box": [6, 0, 8, 4]}, "x0 < x1 and y0 < y1 in the frame"),
        ({"box": [1, 2, 3]}, "box must be four numbers"),
    ],
)
def test_prompts_that_make_no_sense_are_refused(prompt: dict[str, Any], message: str, modules: Page) -> None:
    said = modules.evaluate(
        """async (prompt) => {
          const { Tracker } = await import("/tracker.js");
          const tracker = new Tracker({ image_size: 64, mean: [0, 0, 0], std: [1, 1, 1], constants: {} }, null);
          const message = (promise) => promise.then(() => "", (error) => error.message);
          const black = (width, height) => ({ data: new Uint8ClampedArray(4 * width * height), width, height });
          const before = await message(tracker.addPointsOrBox(1, prompt));
          await tracker.step(black(6, 4));
          const size = await message(tracker.step(black(1, 1)));
          const empty = await message(tracker.step(black(0, 0)));
          const cut = await message(tracker.step({ ...black(6, 4), data: new Uint8ClampedArray(3) }));
          const id = await message(tracker.addPointsOrBox("1", prompt));
          const prompted = await message(tracker.addPointsOrBox(1, prompt));
          return [before, size, empty, cut, id, prompted, tracker.frame];
        }""",
        prompt,
    )
    assert "no frame to prompt yet" in said[0]
    assert "all frames must be of one size, 6x4; got 1x1" in said[1]
    assert "a frame must be RGBA of its width and height; got 0x0, 0 bytes" in said[2]
    assert "a frame must be RGBA of its width and height; got 6x4, 3 bytes" in said[3]
    assert 'objId must be an integer; got "1"' in said[4]
    assert message in said[5]
    assert said[6] == 0


@pytest.mark.parametrize("failing", ["encoder", "track"])
def test_a_step_that_fails_can_be_repeated(failing: str, modules: Page, tmp_path: Path) -> None:
    """The graphs give zeros; the one that fails does so on the third frame, the first time that it is run there."""
    write_manifest(tmp_path, demo_predictor())
    found = modules.evaluate(
        """async ({ manifest, failing }) => {
          const { Tracker } = await import("/tracker.js");
          const lengths = { objects: 1 };
          let broken = false;
          const run = async (graph) => {
            if (graph === failing && tracker.frame === 2 && !broken) {
              broken = true;
              throw new Error("no memory is left");
            }
            const zeros = (shape) => new Float32Array(shape.reduce((size, axis) => size * (lengths[axis] ?? axis), 1));
            return Object.fromEntries(manifest.graphs[graph].outputs.map(({ name, shape }) => [name, zeros(shape)]));
          };
          const tracker = new Tracker(manifest, run);
          const frame = { data: new Uint8ClampedArray(96), width: 6, height: 4 };
          const state = () => {
            const { tracked, prompted, passed } = tracker.tracks.get(1);
            const stored = [tracker.keys, tracked, prompted].map((frames) => [...frames.keys()]);
            return [tracker.frame, tracker.frames.length, ...stored, passed];
          };
          await tracker.step(frame);
          await tracker.addMask(1, new Uint8Array(24));
          await tracker.step(frame);
          const before = state();
          const message = await tracker.step(frame).then(() => "", (error) => error.message);
          const after = state();
          await tracker.step(frame);
          return { message, before, after, repeated: state() };
        }""",
        {"manifest": json.loads((tmp_path / "i2vpp.json").read_text()), "failing": failing},
    )
    unchanged = [1, 2, [0, 1], [1], [0], 1]
    repeated = [2, 3, [0, 1, 2], [1, 2], [0], 2]
    assert found == {"message": "no memory is left", "before": unchanged, "after": unchanged, "repeated": repeated}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([["a.png", "image/png"]], "a.png cannot be read as an image"),
        ([["a.mp4", "video/mp4"]], "a.mp4 cannot be read: this browser does not know its format"),
        ([["a.mp4", "video/mp4"], ["b.png", "image/png"]], "Choose one video, or images only"),
    ],
)
def test_files_that_cannot_be_read_are_named(files: list[list[str]], message: str, modules: Page) -> None:
    said = modules.evaluate(
        """async (files) => {
          const { openFiles } = await import("/frames.js");
          const made = files.map(([name, type]) => new File(["no picture"], name, { type }));
          return openFiles(made).then((frames) => frames.next()).then(() => "nothing", (error) => error.message);
        }""",
        files,
    )
    assert message in said


def recording(path: Path, count: int, *, whole: bool) -> bytes:
    """A WebM with frames of noise, which make it large; if it is not whole, its header lacks a duration."""
    generator = np.random.default_rng(0)
    with av.open(path, "w", format="webm", options={} if whole else {"live": "1"}) as container:
        options = {"deadline": "realtime", "cpu-used": "8", "crf": "4", "g": "1"}
        stream: Any = container.add_stream("libvpx", 20, options=options)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 60_000_000
        for _ in range(count):
            picture = generator.integers(0, 256, (240, 320, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def sound(path: Path) -> bytes:
    """A file with sound only."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(16000))
    return path.read_bytes()


READ_ALL = """async ([name, type, text]) => {
  const { openFiles } = await import("/frames.js");
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  try {
    const frames = await openFiles([new File([bytes], name, { type })]);
    const sizes = [];
    for (let frame = await frames.next(); frame && sizes.length < 100; frame = await frames.next()) {
      sizes.push([frame.width, frame.height]);
    }
    return { count: frames.count, sizes };
  } catch (error) {
    return { message: error.message };
  }
}"""


@pytest.mark.parametrize(("count", "whole"), [(1, True), (8, False), (8, True), (40, False), (40, True)])
def test_a_video_is_read_to_its_end(count: int, whole: bool, modules: Page, tmp_path: Path) -> None:
    """Also a recording, whose duration a browser does not know at first (of 40 frames) or takes for shorter (of 8)."""
    text = base64.b64encode(recording(tmp_path / "a.webm", count, whole=whole)).decode()
    found = modules.evaluate(READ_ALL, ["a.webm", "video/webm", text])
    assert found == {"count": count, "sizes": [[320, 240]] * count}


def test_a_file_with_sound_only_holds_no_picture(modules: Page, tmp_path: Path) -> None:
    text = base64.b64encode(sound(tmp_path / "a.wav")).decode()
    found = modules.evaluate(READ_ALL, ["a.wav", "audio/wav", text])
    assert found == {"message": "a.wav holds no picture. Choose a video."}


def test_what_is_missing_is_said(browser: Browser, tmp_path: Path) -> None:
    copy_page(tmp_path)
    with serve(tmp_path) as url:
        page = browser.new_page()
        page.goto(url)
        status = page.locator("#status.bad")
        expect(status).to_contain_text("There is no model at /model/. Export one, in examples/web: i2vpp export")
        expect(page.locator("#files")).to_be_disabled()
        (tmp_path / "model").mkdir()
        write_manifest(tmp_path / "model", demo_predictor())
        manifest = json.loads((tmp_path / "model" / "i2vpp.json").read_text())
        for changed, message in (({"format": 99}, "cannot read the export"), ({}, "onnxruntime-web is missing. Run")):
            described = {**manifest, "file_format": "onnx", **changed}
            (tmp_path / "model" / "i2vpp.json").write_text(json.dumps(described))
            page.reload()
            expect(status).to_contain_text(message)
        page.goto(f"{url}?backend=abacus")
        expect(status).to_contain_text("backend must be webgpu or wasm; got abacus")
        page.close()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """The page with all it needs.

    Args:
        folder: what is served.
        frames: PNGs.
    """

    folder: Path
    frames: list[Path]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Install onnxruntime-web, export the demonstration's network and write the frames."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    npm = shutil.which("npm")
    if missing or npm is None:
        pytest.skip(f"needs {' and '.join([*missing, *([] if npm else ['npm'])])}")
    folder = copy_page(tmp_path_factory.mktemp("web"))
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm has not installed onnxruntime-web within {INSTALL_SECONDS} seconds")
    if done.returncode:
        pytest.skip(f"npm could not install onnxruntime-web: {done.stderr[-300:]}")
    exported = export_demo(tmp_path_factory, PAGE_SIDE)
    (folder / "model").symlink_to(exported, target_is_directory=True)
    pictures = tmp_path_factory.mktemp("frames")
    paths = [pictures / f"{i:05}.png" for i in range(PAGE_FRAMES)]
    for path, frame in zip(paths, clip_frames(PAGE_FRAMES), strict=True):
        Image.fromarray(frame).save(path)
    return Site(folder=folder, frames=paths)


LISTEN = """() => {
  window.found = [];
  document.addEventListener("i2vpp:masks", ({ detail: { frame, masks } }) => {
    const [mask] = masks.map((pixels) => btoa(Array.from(pixels, (x) => String.fromCharCode(x)).join("")));
    window.found[frame] = mask;
  });
}"""

SHOWN = """() => {
  const canvas = document.getElementById("masks");
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return Array.from({ length: data.length / 4 }, (_, i) => Number(data[4 * i + 3] > 0));
}"""


def click(page: Page, x: float, y: float, *, shift: bool = False) -> list[float]:
    """Click near a point of the video, on a whole pixel of the window; return the point that is hit."""
    box = page.locator("#frame").bounding_box()
    size = page.evaluate("() => [document.getElementById('frame').width, document.getElementById('frame').height]")
    assert box is not None
    place = [round(box["x"] + x * box["width"] / size[0]), round(box["y"] + y * box["height"] / size[1])]
    marks = page.locator("#marks span").count()
    if shift:
        page.keyboard.down("Shift")
    page.mouse.click(*place)
    if shift:
        page.keyboard.up("Shift")
    expect(page.locator("#marks span")).to_have_count(marks + 1, timeout=TRACK_MS)
    return [(place[0] - box["x"]) / box["width"] * size[0], (place[1] - box["y"]) / box["height"] * size[1]]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_page_finds_the_masks_of_python(browser: Browser, site: Site) -> None:
    hosts, troubles = set(), []
    with serve(site.folder) as url:
        page = browser.new_page(viewport={"width": 1000, "height": 760})
        page.on("request", lambda request: hosts.add(request.url.split("/")[2]))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto(f"{url}?backend=wasm")
        expect(page.locator("#files")).to_be_enabled(timeout=TRACK_MS)
        page.evaluate(LISTEN)
        page.locator("#files").set_input_files(site.frames)
        expect(page.locator("#status")).to_contain_text("Click the object", timeout=TRACK_MS)
        points = [click(page, 190, 210), click(page, 240, 165, shift=True)]
        page.get_by_role("button", name="Track").click()
        expect(page.locator("#status")).to_contain_text(f"Done: {PAGE_FRAMES} frames", timeout=TRACK_MS)
        found, shown = page.evaluate("window.found"), page.evaluate(SHOWN)
        page.close()
    tracker = I2VPPOnnx(site.folder / "model", threads=1)
    for i, path in enumerate(site.frames):
        result = tracker.step(np.asarray(Image.open(path)))
        for point, label in zip(points, [1, 0], strict=True) if i == 0 else ():
            result = tracker.add_points_or_box(1, [point], [label], clear_old_points=False)
        expected = result.masks[0] > 0
        mask = from_text(found[i], "uint8").reshape(expected.shape) > 0
        iou = int((mask & expected).sum()) / int((mask | expected).sum())
        assert iou >= 0.99, f"frame {i}: IoU {iou}"
        assert expected.mean() > 0.02
    assert np.array_equal(np.reshape(shown, mask.shape), mask), "the canvas shows the last frame's mask"
    assert hosts == {url.split("/")[2]}, "nothing comes from other hosts"
    assert not troubles


def wait_beyond(page: Page, frame: int) -> None:
    """Wait until a later frame is shown; not by an expression in the page, which its policy forbids to evaluate."""
    deadline = time.monotonic() + TRACK_MS / 1000
    while int(page.get_attribute("#view", "data-frame") or 0) <= frame:
        assert time.monotonic() < deadline, f"no frame after {frame} has come"
        page.wait_for_timeout(20)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_video_is_tracked_until_it_is_stopped(browser: Browser, site: Site) -> None:
    with serve(site.folder) as url:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(url)
        expect(page.locator("#files")).to_be_enabled(timeout=TRACK_MS)
        page.locator("#files").set_input_files(REPO / "i2vpp" / "assets" / "bunny.mp4")
        expect(page.locator("#status")).to_contain_text("Click the object", timeout=TRACK_MS)
        click(page, 190, 210)
        page.get_by_role("button", name="Track").click()
        wait_beyond(page, 1)
        expect(page.locator("#status")).to_contain_text("of 132")
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#status")).to_contain_text("Stopped at frame", timeout=TRACK_MS)
        frame = int(page.get_attribute("#view", "data-frame") or 0)
        click(page, 190, 210)
        page.get_by_role("button", name="Go on").click()
        wait_beyond(page, frame)
        assert sum(page.evaluate(SHOWN)) > 0
        page.close()
