"""Work on the frame and the timeline in headless Chromium: select, polygons, copies, display, playback, zoom."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotate_page import Annotator, annotator, chromium, expect
from annotator import make_workspace, serving, until, write_frames
from i2vpp.annotate.storage.masks import Stroke, paint
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import encode_once, make_predictor
from test_annotate_frame import write_video

FRAMES = 40
SCALE = "async () => (await import('/static/timescale.js')).shownRange()"
SELECTED = "async () => (await import('/static/state.js')).app.selected"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


@pytest.fixture
def url(tmp_path: Path, predictor: I2VPPVideoPredictor) -> Iterator[str]:
    write_frames(tmp_path / "clips" / "disc", FRAMES)
    write_video(tmp_path / "clips" / "slow.mkv", list(itertools.accumulate([40, 40, 1400, 40, 40], initial=0)), 25)
    with serving(make_workspace(tmp_path / "clips", tmp_path / "out", lambda: predictor)) as server:
        yield server.url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Annotator]:
    with annotator(browser, url) as opened:
        yield opened.open("disc").frame(0).settled()


def setting(page: Annotator, name: str) -> Any:
    return page.page.evaluate("async (name) => (await import('/static/state.js')).app[name]", name)


def filled(*corners: tuple[float, float]) -> np.ndarray:
    return paint(np.zeros((48, 64), bool), [Stroke(points=corners, radius=None)])


def near(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether masks agree up to their edges: clicks are at whole pixels of the screen."""
    return bool((found & wanted).sum() / (found | wanted).sum() > 0.93)


# ---- on the frame


def test_a_click_selects_the_object_under_the_pointer(page: Annotator) -> None:
    page.paint((10, 10), (20, 10))
    page.press("n").settled()
    page.paint((20, 10), (50, 10))
    page.press("n").settled()
    strokes = {number: len(page.prompts(number)["strokes"]) for number in (1, 2)}
    page.page.keyboard.down("Control")
    page.click(10, 10)
    page.page.keyboard.up("Control")
    assert page.page.evaluate(SELECTED) == 1, "with Ctrl, whatever the tool"
    page.press("s").click(45, 10)
    assert page.page.evaluate(SELECTED) == 2
    page.click(22, 10)
    assert page.page.evaluate(SELECTED) == 1, "where objects overlap, the next one"
    page.click(40, 40)
    assert page.page.evaluate(SELECTED) == 1, "nothing is there"
    before = page.place(32, 24)
    page.drag((32, 24), (36, 24))
    assert page.place(32, 24)[0] > before[0] + 5, "dragging moves the frame"
    page.settled()
    assert {number: len(page.prompts(number)["strokes"]) for number in (1, 2)} == strokes


def test_polygons_are_closed_cancelled_and_taken_away(page: Annotator) -> None:
    corners = ((10, 8), (50, 8), (50, 40), (10, 40))
    page.press("g")
    for corner in corners:
        page.click(*corner)
    page.press("Enter").settled()
    mask = page.masks(0)[1]
    assert near(mask, filled(*corners))
    assert page.prompts()["strokes"][0]["radius"] is None

    hole = ((20, 16), (40, 16), (30, 32))
    for corner in hole[:2]:
        page.click(*corner, shift=True)
    page.page.mouse.dblclick(*page.place(*hole[2]))
    page.settled()
    assert near(page.masks(0)[1], mask & ~filled(*hole))
    assert page.prompts()["strokes"][1]["erase"]
    expect(page.page.locator("#prompts")).to_contain_text("4 corners")

    page.click(2, 2).click(8, 2)
    expect(page.page.locator("#polygon-close")).to_be_disabled()
    page.press("Enter")
    page.notice("A polygon needs 3 corners")
    page.press("Delete").click(8, 2).click(8, 6)
    page.page.locator("#polygon-cancel").click()
    page.click(2, 2).click(8, 2).click(8, 6).press("Escape")
    expect(page.page.locator("#polygon-row")).to_be_hidden()
    page.settled()
    assert len(page.prompts()["strokes"]) == 2
    page.press("z", "z").settled()
    assert page.masks(0) == {}


def test_a_corner_is_moved_and_the_first_one_closes(page: Annotator) -> None:
    page.press("g").click(10, 8).click(50, 8).click(40, 20)
    page.drag((40, 20), (50, 40))
    page.click(10, 8).settled()
    assert near(page.masks(0)[1], filled((10, 8), (50, 8), (50, 40)))
    page.press("l").settled().click(20, 20)
    page.notice("is locked")
    expect(page.page.locator("#polygon-row")).to_be_hidden()


def test_a_polygon_without_a_mouse(page: Annotator) -> None:
    page.press("g", "Alt+ArrowRight", "Enter")
    page.press(*["Alt+ArrowRight"] * 8, "Enter", *["Alt+ArrowDown"] * 8, "Enter", "Enter").settled()
    stroke = page.prompts()["strokes"][0]
    assert (len(stroke["points"]), stroke["radius"], stroke["erase"]) == (3, None, False)


def test_fingers_draw_a_polygon(browser: Any, url: str) -> None:
    with annotator(browser, url, viewport=PHONE, has_touch=True) as page:
        page.open("disc").frame(0).settled()
        page.page.locator("[data-tool=polygon]").tap()
        for corner in ((10, 8), (50, 8), (50, 40)):
            page.page.touchscreen.tap(*page.place(*corner))
        close = page.page.locator("#polygon-close")
        expect(close).to_be_in_viewport()
        assert page.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        close.tap()
        page.settled()
        assert near(page.masks(0)[1], filled((10, 8), (50, 8), (50, 40)))


def test_the_mask_of_the_previous_frame_is_copied(page: Annotator) -> None:
    page.paint((10, 10), (20, 10))
    expect(page.page.locator("#copy-mask")).to_be_disabled()
    page.press("ArrowRight").frame(1)
    page.page.locator("#copy-mask").click()
    page.settled()
    assert np.array_equal(page.masks(1)[1], page.masks(0)[1])
    expect(page.page.locator("#prompts")).to_contain_text("imported mask")
    page.press("ArrowRight").frame(2).press("Shift+C").settled()
    assert np.array_equal(page.masks(2)[1], page.masks(0)[1])
    page.press("Home").frame(0).press("Shift+C")
    page.notice("There is no frame before this one.")


def test_names_light_and_onion_skin_are_seen_and_kept(page: Annotator) -> None:
    page.paint((10, 20), (20, 20))
    page.press("c").settled()
    plain = page.picture()
    page.press("Shift+N")
    assert np.abs(page.picture() - plain).max() > 100, "the name"
    page.press("Shift+N")
    assert np.abs(page.picture() - plain).max() <= 2
    page.press("Shift+D")
    panel = page.page.locator("#display")
    panel.get_by_label("Brightness").fill("200")
    assert page.color(50, 40).sum() > 1.5 * mean(plain, page, 50, 40).sum() or page.color(50, 40).min() > 240
    panel.get_by_role("button", name="Reset").click()
    assert np.abs(page.picture() - plain).max() <= 2
    panel.get_by_label("Contrast").fill("150")
    page.press("Escape")
    expect(panel).to_be_hidden()
    page.page.reload()
    page.frame(0).settled()
    assert (setting(page, "contrast"), setting(page, "brightness")) == (150, 100)
    page.press("Shift+D")
    panel.get_by_role("button", name="Reset").click()
    page.press("Escape")

    page.press("ArrowRight").frame(1).settled()
    bare = page.picture()
    page.press("Shift+O")
    outline = page.picture()
    assert 0 < (np.abs(outline - bare).max(axis=2) > 40).mean() < 0.02, "an outline"
    page.press("Shift+D")
    panel.get_by_text("Image").click()
    page.press("Escape")
    assert (np.abs(page.picture() - outline).max(axis=2) > 8).mean() > 0.005, "the disc where it was"
    assert setting(page, "onion") == "previous"


def mean(picture: np.ndarray, page: Annotator, x: float, y: float) -> np.ndarray:
    left, top = page.place(x, y)
    box = page.page.locator("#stage").bounding_box()
    assert box is not None
    row, column = round(top - box["y"]), round(left - box["x"])
    found: np.ndarray = picture[row - 1 : row + 2, column - 1 : column + 2].mean(axis=(0, 1))
    return found


def test_masks_that_stay_the_same_are_not_traced_again(page: Annotator) -> None:
    """Outlines are kept by run lengths: a stroke must not put new ones in place of equal ones."""
    page.paint((10, 10), (20, 10))
    page.press("n").settled()
    page.paint((40, 38), (50, 38))
    same = (
        "async () => { const runs = (await import('/static/masks.js')).masksOf(0); const known = window.known ?? runs;"
    )
    same += " window.known = runs; return [1, 2].map((id) => known.get(id) === runs.get(id)); }"
    page.page.evaluate(same)
    page.paint((40, 30), (50, 30))
    assert page.page.evaluate(same) == [True, False]


# ---- time


def test_the_timeline_zooms_about_the_pointer_and_follows_the_playhead(page: Annotator) -> None:
    head = page.page.locator("#timeline-head").bounding_box()
    assert head is not None
    x, y = head["x"] + head["width"] * 0.76, head["y"] + 30
    page.page.mouse.click(x, y)
    page.frame(30)
    page.page.mouse.move(x, y)
    page.page.keyboard.down("Control")
    page.page.mouse.wheel(0, -500)
    page.page.keyboard.up("Control")
    until(lambda: page.page.evaluate(SCALE)["span"] < FRAMES / 2)
    page.page.mouse.click(x, y)
    assert setting(page, "frame") == 30, "the frame under the pointer stays there"
    page.press("Home").frame(0)
    assert page.page.evaluate(SCALE)["first"] == 0
    page.press("End").frame(FRAMES - 1)
    shown = page.page.evaluate(SCALE)
    assert shown["first"] + shown["span"] == pytest.approx(FRAMES)
    page.page.get_by_label("Part of the video on the timeline").fill("5")
    assert page.page.evaluate(SCALE)["first"] == pytest.approx(5)
    page.page.get_by_role("button", name="Show the whole video on the timeline").click()
    assert page.page.evaluate(SCALE) == {"first": 0, "span": FRAMES}
    page.press("Shift+ArrowUp")
    assert page.page.evaluate(SCALE)["span"] < FRAMES
    page.press("Shift+ArrowDown")
    expect(page.page.locator("#time-window")).to_be_hidden()


def test_the_timeline_is_made_higher_by_dragging_and_by_keys(page: Annotator) -> None:
    body, bar = page.page.locator("#timeline-body"), page.page.get_by_role("separator")
    before = body.bounding_box()
    place = bar.bounding_box()
    assert before is not None
    assert place is not None
    page.page.mouse.move(place["x"] + 300, place["y"] + 3)
    page.page.mouse.down()
    page.page.mouse.move(place["x"] + 300, place["y"] - 57, steps=4)
    page.page.mouse.up()
    assert body.evaluate("node => node.offsetHeight") == pytest.approx(before["height"] + 60, abs=2)
    bar.focus()
    page.press("ArrowDown")
    kept = body.evaluate("node => node.offsetHeight")
    assert kept == pytest.approx(before["height"] + 40, abs=2)
    page.page.reload()
    page.frame(0)
    assert body.evaluate("node => node.offsetHeight") == kept
    bar.focus()
    page.press("Enter")
    assert body.evaluate("node => node.offsetHeight") == before["height"]
    assert page.page.evaluate(SELECTED) is None


def test_steps_speed_and_loop(page: Annotator) -> None:
    page.press("Shift+ArrowRight").frame(10)
    page.page.get_by_label("Step", exact=True).fill("7")
    page.press("Enter", "Shift+ArrowRight").frame(17)
    page.page.get_by_role("button", name="Back 7 frames").click()
    page.frame(10)
    page.press(">", ">", "<")
    assert setting(page, "speed") == 1.5
    page.page.get_by_label("Speed").select_option("4")
    page.page.locator("#stage").focus()
    page.press("End").frame(FRAMES - 1).press("Shift+L", " ")
    until(lambda: setting(page, "frame") < FRAMES - 1)
    until(lambda: setting(page, "frame") > 12)
    assert setting(page, "playing")
    page.press(" ")
    page.page.reload()
    page.page.wait_for_selector("#stage[data-frame]")
    assert [setting(page, name) for name in ("speed", "loop", "stepSize")] == [4, True, 7]
    page.press("Shift+L")


def test_the_place_is_kept_while_frames_are_played(page: Annotator) -> None:
    page.press("Shift+L", " ")
    until(lambda: setting(page, "frame") > 0 and "frame=0" not in page.page.evaluate("location.hash"))
    assert setting(page, "playing")
    page.page.reload()
    page.page.wait_for_selector("#stage[data-frame]")
    assert setting(page, "frame") > 0
    page.press("Shift+L")


def test_the_place_is_that_of_the_last_moment(page: Annotator) -> None:
    page.press("ArrowRight", "ArrowRight", "ArrowRight")
    page.page.reload()
    page.frame(3)


def test_frames_are_shown_where_masks_cannot_be_drawn(browser: Any, url: str) -> None:
    with annotator(browser, url) as page:
        page.page.route("**/static/mask_worker.js", lambda route: route.abort())
        page.page.reload()
        page.open("disc").frame(0).click(32, 24)
        page.notice("Masks cannot be drawn: a part of the page did not load. Reload the page.")
        page.press("ArrowRight").frame(1)
        page.page.unroute("**/static/mask_worker.js")
        page.page.reload()
        page.frame(1).settled()
        page.troubles.clear()  # the browser reports the file that was refused


def test_the_time_of_a_frame_is_its_own_where_the_rate_varies(browser: Any, url: str) -> None:
    with annotator(browser, url) as page:
        page.open("slow.mkv").frame(0).press("End").frame(5)
        expect(page.page.locator("#timecode")).to_have_text("0:01.56")
        page.press("ArrowLeft", "ArrowLeft", "ArrowLeft").frame(2)
        expect(page.page.locator("#timecode")).to_have_text("0:00.08")
