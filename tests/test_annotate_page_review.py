"""Review and ranges on the page in headless Chromium: by keys and buttons, in the timeline, in the list of videos."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotate_page import PATIENCE_MS, Annotator, annotator, chromium, expect
from annotator import make_workspace, serving, write_frames
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import encode_once, make_predictor

FRAMES = 5
TRACKING_MS = 90_000.0  # a frame takes seconds where the machine is busy
LANE = """() => {
  const canvas = document.getElementById('timeline-lanes');
  const context = canvas.getContext('2d');
  const each = canvas.width / 5;
  const at = (frame) => [...context.getImageData(Math.round((frame + 0.5) * each), 2 * devicePixelRatio, 1, 1).data];
  return Array.from({ length: 5 }, (_, frame) => at(frame));
}"""  # colours above the bar of the first object, on each frame


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


@pytest.fixture
def url(tmp_path: Path, predictor: I2VPPVideoPredictor) -> Iterator[str]:
    for name in ("clip", "other"):
        write_frames(tmp_path / "clips" / name, FRAMES)
    with serving(make_workspace(tmp_path / "clips", tmp_path / "out", lambda: predictor)) as server:
        yield server.url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Annotator]:
    with annotator(browser, url) as opened:
        yield opened.open("clip").frame(0).settled()


def propagated(page: Annotator, frames: int) -> None:
    """Wait for the end of a propagation over a number of frames."""
    words = f"Propagated over {frames} frame{'s' if frames > 1 else ''}."
    page.page.locator(".notice", has_text=words).wait_for(timeout=TRACKING_MS)


def values(page: Annotator, obj_id: int = 1) -> list[int | None]:
    """The values in an object's timeline, by frame, as the page knows them."""
    runs = page.settled().page.evaluate("async () => (await import('/static/state.js')).app.timeline")
    found: list[int | None] = [None] * FRAMES
    for first, last, value in runs.get(str(obj_id), []):
        found[first : last + 1] = [value] * (last - first + 1)
    return found


def test_stale_masks_are_propagated_and_frames_accepted(page: Annotator) -> None:
    missing = page.page.locator("#propagate-missing")
    expect(missing).to_be_disabled()
    page.paint((16, 24), (40, 24))
    expect(missing).to_have_attribute("title", re.compile(f": {FRAMES - 1} masks"))
    missing.click()
    propagated(page, FRAMES - 1)
    assert None not in values(page)
    page.press("Home").frame(0).press("ArrowRight", "ArrowRight").frame(2)
    page.paint((20, 40), (30, 40))
    assert [bool((value or 0) & 4) for value in values(page)] == [False] * 3 + [True] * 2
    page.press("End").frame(FRAMES - 1)
    dot = page.page.locator("#objects .presence")
    expect(dot).to_have_attribute("data-review", "stale")
    expect(missing).to_have_attribute("title", re.compile(": 2 masks"))
    page.press("Shift+P")
    propagated(page, 2)
    expect(dot).to_have_attribute("data-review", "to do")

    before = page.page.evaluate(LANE)
    page.press("Home").frame(0).press("ArrowRight").frame(1).press("i", "End").frame(FRAMES - 1)
    page.press("ArrowLeft").frame(3).press("Shift+I")
    expect(page.page.locator("#range-text")).to_have_text("1 to 3")
    page.press("a")
    assert [bool((value or 0) & 8) for value in values(page)] == [False, True, True, True, False]
    page.page.locator("#range > summary").click()
    page.page.get_by_role("button", name="None", exact=True).click()
    changed = [before != after for before, after in zip(before, page.page.evaluate(LANE), strict=True)]
    assert changed == [False, True, True, True, False], "a line above the bars of accepted frames"
    expect(dot).to_have_attribute("data-review", "accepted")
    page.press("Shift+A")
    assert [bool((value or 0) & 8) for value in values(page)] == [False, True, True, False, False], "this frame"
    page.press("z", "z").settled()
    assert not any((value or 0) & 8 for value in values(page))

    page.page.get_by_role("button", name="All", exact=True).click()
    page.page.get_by_text("All objects", exact=True).last.click()
    page.page.get_by_role("button", name="Accept").click()
    assert all((value or 0) & 8 for value in values(page))
    page.press("v")
    states = page.page.get_by_label("Show videos by their state")
    cards = page.page.locator("#videos button.video")
    expect(cards).to_have_count(2, timeout=PATIENCE_MS)
    expect(page.page.locator(".video-state")).to_have_text("accepted", timeout=PATIENCE_MS)
    states.select_option(label="untouched")
    expect(cards).to_have_count(1)
    expect(cards).to_contain_text("other")
    states.select_option(label="in work")
    expect(page.page.locator("#videos")).to_have_text("No video is in this state and has such a name.")


def test_tracks_are_cleared_cut_merged_and_swapped(page: Annotator) -> None:
    page.paint((16, 24), (40, 24))
    page.press("Shift+P")
    propagated(page, FRAMES - 1)
    first = [page.masks(frame)[1] for frame in range(FRAMES)]
    page.page.locator("#range > summary").click()
    page.press("Home").frame(0).press("ArrowRight", "ArrowRight").frame(2)
    page.press("u")
    notice = page.page.locator(".notice", has_text="Declared absent: “Object 1” on frame 2.")
    assert values(page)[2] == 8
    notice.get_by_role("button", name="Undo").click()
    page.settled()
    assert np.array_equal(page.masks(2)[1], first[2])
    page.press("ArrowRight").frame(3).press("k").settled()
    expect(page.page.locator("#objects li")).to_have_count(2)
    expect(page.page.locator("#objects li.selected .name")).to_have_value("Object 1 (2)")
    assert np.array_equal(page.masks(4)[2], first[4])
    assert 1 not in page.masks(4)
    expect(page.page.get_by_label("The other object, to merge or to swap with")).to_have_value("1")
    page.page.get_by_role("button", name="Swap").click()
    page.page.locator(".notice", has_text="Swapped “Object 1 (2)” and “Object 1” from here on.").wait_for()
    page.settled()
    assert np.array_equal(page.masks(4)[1], first[4])
    page.press("z").settled()
    page.page.get_by_role("button", name="Merge").click()
    page.page.locator(".notice", has_text="Merged “Object 1” into “Object 1 (2)”.").wait_for()
    page.settled()
    assert [np.array_equal(page.masks(frame)[2], first[frame]) for frame in range(FRAMES)] == [True] * FRAMES
    page.page.get_by_label("First frame of the range").fill("1")
    page.press("Enter")
    page.page.get_by_label("Last frame of the range").fill("3")
    page.press("Enter")
    expect(page.page.locator("#range-text")).to_have_text("1 to 3")
    page.page.get_by_role("button", name="Clear", exact=True).last.click()
    page.page.locator(".notice", has_text="Cleared the masks of “Object 1 (2)” on frames 1 to 3.").wait_for()
    assert values(page, 2)[1:4] == [None] * 3
    page.page.get_by_role("button", name="Clear", exact=True).last.click()
    page.notice("nothing to clear: there are no masks of Object 1 (2) on frames 1 to 3")
    page.forgive(lambda trouble: "400" in trouble)


@pytest.mark.parametrize("width", [390, 1440])
def test_the_block_fits(browser: Any, url: str, width: int) -> None:
    with annotator(browser, url, viewport={"width": width, "height": 844}) as page:
        page.open("clip").frame(0).settled()
        page.paint((10, 10), (20, 10))
        page.press("n").settled()
        page.page.locator("#range > summary").click()
        assert page.page.evaluate("document.documentElement.scrollWidth") == width
        for control in page.page.locator("#range button, #range input:visible, #range select, #run button").all():
            box = control.bounding_box()
            if box is not None:
                assert 0 <= box["x"] < box["x"] + box["width"] <= width, control.get_attribute("id")
