"""The annotator's page and its server: lists of videos, names, a killed server, and the whole way to exported files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotate_page import NO_CONNECTION, PATIENCE_MS, annotator, chromium, expect
from annotator import make_workspace, serving, write_frames
from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from media import moving_disc, write_video
from models import encode_once, make_predictor
from sav_dataset.sav_evaluator import evaluate

REPO = Path(__file__).resolve().parent.parent
FRAMES = 6
ATTACK = "<img src=x onerror=\"document.title='broken'\">"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


def test_the_list_and_the_first_step(browser: Any, tmp_path: Path, predictor: I2VPPVideoPredictor) -> None:
    folder = tmp_path / "videos"
    write_frames(folder / "frames", FRAMES)
    write_video(folder / "film.mp4", moving_disc(4)[0])
    (folder / "broken.mp4").write_text("no video")
    with (
        serving(make_workspace(folder, tmp_path / "out", lambda: predictor)) as server,
        annotator(browser, server.url) as page,
    ):
        page.open()
        expect(page.page.get_by_role("heading", name="Segment objects through a video")).to_be_visible()
        expect(page.page.locator("#videos li")).to_have_count(3)
        expect(page.page.locator("#library-count")).to_have_text("3 videos")
        expect(page.page.locator("#model")).to_contain_text("tiny.pt · 64 px · cpu, float32", timeout=PATIENCE_MS)
        page.page.get_by_role("button", name="broken.mp4").click()
        page.notice("broken.mp4")
        page.page.get_by_role("button", name="film.mp4").click()
        page.frame(0).settled()
        expect(page.page.locator("#video-name")).to_have_text("film.mp4")
        expect(page.page.locator("#first-step")).to_contain_text("Click the object")
        assert np.ptp(page.picture()) > 150, "the frame is drawn"
        page.forgive(lambda trouble: "Failed to load resource" in trouble and "422" in trouble)


def test_names_are_text(browser: Any, tmp_path: Path, predictor: I2VPPVideoPredictor) -> None:
    folder = tmp_path / "videos"
    write_frames(folder / "<b onclick=x>", FRAMES)
    write_frames(folder / "other", FRAMES)
    with (
        serving(make_workspace(folder, tmp_path / "out", lambda: predictor)) as server,
        annotator(browser, server.url) as page,
    ):
        page.open("<b onclick=x>").frame(0)
        page.press("n").settled().press("r")
        page.page.keyboard.type(ATTACK)
        page.press("Enter").settled()
        assert page.state()["objects"][0]["name"] == ATTACK
        page.page.locator("#propagate").get_by_text("Chosen").click()
        page.press("Shift+Delete")
        expect(page.page.locator(".notice")).to_contain_text(f"Deleted “{ATTACK}”.")
        page.page.locator(".notice").get_by_role("button", name="Undo").click()
        page.settled()
        expect(page.page.locator("#timeline-names")).to_have_text(ATTACK)
        expect(page.page.locator("#chosen")).to_have_text(ATTACK)
        expect(page.page.locator("#video-name")).to_have_text("<b onclick=x>")
        page.press("v")
        expect(page.page.locator("#videos strong").first).to_have_text("<b onclick=x>")
        assert page.page.locator("img:not(.thumbnail), b").count() == 0
        assert page.page.title() == "<b onclick=x> - i2vpp"


@pytest.mark.slow
def test_the_bundled_clip_from_the_first_click_to_the_exported_files(browser: Any, tmp_path: Path) -> None:
    def build() -> I2VPPVideoPredictor:
        return build_i2vpp_video_predictor(ckpt_path="i2vpp-demo", device="cpu", dtype="float32")

    clip = REPO / "i2vpp" / "assets" / "bunny.mp4"
    with serving(make_workspace(clip, tmp_path / "out", build)) as server, annotator(browser, server.url) as page:
        page.open().frame(0).settled().drag((118, 127), (262, 280)).settled()

        rabbit = page.masks(0)[1]
        assert rabbit[127:280, 118:262].sum() > 0.9 * rabbit.sum()
        form = page.page.locator("#propagate")
        form.get_by_text("Up to").click()
        form.get_by_label("Last frame").fill("4")
        form.get_by_role("button", name="Propagate").click()
        page.notice("Propagated over 5 frames.")
        page.frame(4).settled()

        before = page.masks(4)[1]
        page.click(250, 170, button="right").settled()
        assert not np.array_equal(page.masks(4)[1], before)
        page.press("e").drag((250, 130), (250, 280)).settled()
        corrected = page.masks(4)[1]
        assert before[130:280, 250].any()
        assert not corrected[130:280, 250].any()
        form.get_by_text("Backward").click()
        form.get_by_label("Last frame").fill("2")
        form.get_by_role("button", name="Propagate").click()
        page.notice("Propagated over 3 frames.")

        page.settled().page.get_by_role("button", name="Export").click()
        page.page.locator("#export-form").get_by_role("button", name="Export").click()
        page.notice("Exported to “exports/")
        (root,) = (tmp_path / "out" / "exports").iterdir()
        found = {int(path.stem): np.asarray(Image.open(path)) > 0 for path in root.glob("sav/001/*.png")}
        assert found.keys() == set(range(5))
        assert np.array_equal(found[4], corrected)
        for frame, pixels in found.items():
            path = tmp_path / "truth" / "sav" / "001" / f"{frame:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
        assert evaluate(tmp_path / "truth", root).mean.j == 100


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def start_server(video: Path, output: Path, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "i2vpp.cli", "annotate", str(video), "-o", str(output), "--port", str(port)]
    process = subprocess.Popen([*command, "--no-browser"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    said = [process.stdout.readline(), process.stdout.readline()]
    assert "Ctrl-C ends" in said[1], said
    return process


@pytest.mark.slow
def test_a_killed_server_and_a_reloaded_page_lose_nothing(browser: Any, tmp_path: Path) -> None:
    video, output, port = write_frames(tmp_path / "clip", FRAMES), tmp_path / "out", free_port()
    process = start_server(video, output, port)
    try:
        with annotator(browser, f"http://127.0.0.1:{port}/") as page:
            page.open().frame(0).settled().press("ArrowRight").frame(1)
            page.paint((16, 24), (40, 24))
            mask, picture = page.masks(1)[1], page.press("c").picture()
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            expect(page.page.locator("#banner")).to_contain_text("The server does not answer", timeout=PATIENCE_MS)
            expect(page.page.locator("#link")).to_have_text("Not connected")
            page.press("n")
            page.notice("your last step was not saved")

            process = start_server(video, output, port)
            expect(page.page.locator("#banner")).to_be_hidden(timeout=PATIENCE_MS)
            assert np.array_equal(page.masks(1)[1], mask)
            page.paint((30, 10), (40, 10))
            assert page.masks(1)[1][10, 35], "goes on as if nothing had happened"
            page.press("z", "c").settled()

            page.page.reload()
            page.frame(1).settled()  # where it was
            page.press("c")
            np.testing.assert_allclose(page.picture(), picture, atol=2)
            page.press("z").settled()
            assert page.masks(1) == {}, "the history survived, too"
            page.forgive(NO_CONNECTION.search)
    finally:
        process.kill()
        process.wait()
