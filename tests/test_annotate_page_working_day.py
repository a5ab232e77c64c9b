"""What an annotator meets on a working day, in headless Chromium: keys, notices, fingers, restarts, little traffic."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from annotate_page import PATIENCE_MS, Annotator, annotator, chromium, expect
from annotator import Gate, make_workspace, serving, until, write_frames
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import encode_once, make_predictor

FRAMES = 6
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    write_frames(tmp_path / "clips" / "disc", FRAMES)
    write_frames(tmp_path / "clips" / "other", FRAMES)
    return tmp_path / "clips"


@pytest.fixture
def url(clips: Path, tmp_path: Path, predictor: I2VPPVideoPredictor) -> Iterator[str]:
    with serving(make_workspace(clips, tmp_path / "out", lambda: predictor)) as server:
        yield server.url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Annotator]:
    with annotator(browser, url) as opened:
        yield opened.open("disc").frame(0).settled()


def focused(page: Annotator) -> str:
    return str(page.page.evaluate("document.activeElement.id || document.activeElement.tagName"))


def notify(page: Annotator, kind: str, text: str) -> None:
    script = "async ([kind, text]) => { (await import('/static/notices.js')).notify(kind, text); }"
    page.page.evaluate(script, [kind, text])


def type_as(page: Annotator, key: str, code: str) -> None:
    script = "([key, code]) => document.body.dispatchEvent(new KeyboardEvent('keydown', {key, code, bubbles: true}))"
    page.page.evaluate(script, [key, code])


def test_the_keyboard_goes_where_it_is_needed(page: Annotator) -> None:
    assert focused(page) == "stage", "after opening"
    page.press("Alt+ArrowRight", "Enter").settled()
    page.page.evaluate("document.activeElement.blur()")
    page.press("Alt+ArrowLeft", "Shift+Enter").settled()
    assert [label for *_, label in page.prompts()["points"]] == [1, 0], "from the page, too"
    page.page.locator("#add-object").focus()
    page.press("v")
    expect(page.page.locator("#library")).to_have_class("library open")
    assert page.page.evaluate("document.getElementById('library').contains(document.activeElement)")
    page.press("Escape")
    assert focused(page) == "add-object"
    page.page.locator("#skip").focus()
    page.press("Enter")
    assert focused(page) == "stage"


@pytest.mark.parametrize(
    ("key", "code", "tool"),
    [("и", "KeyB", "brush"), ("b", "KeyN", "brush"), ("q", "KeyX", "box"), ("л", "KeyE", "eraser")],
)
def test_keys_of_other_keyboards(page: Annotator, key: str, code: str, tool: str) -> None:
    """By their label where the table has it, or else by their place."""
    type_as(page, key, code)
    assert page.page.evaluate("async () => (await import('/static/state.js')).app.tool") == tool


def test_digits_that_need_shift_select_objects(page: Annotator) -> None:
    page.press("n").settled().press("n").settled()
    type_as(page, "&", "Digit1")
    assert page.page.evaluate("async () => (await import('/static/state.js')).app.selected") == 1


def test_notices_cover_nothing_and_are_few(page: Annotator) -> None:
    for number in range(3):
        notify(page, "error", f"trouble {number}")
    notify(page, "info", "news")
    expect(page.page.locator(".notice")).to_have_count(2)
    expect(page.page.locator(".notice.error")).to_have_count(1)
    stage = page.page.locator(".stage-view").bounding_box()
    for notice in page.page.locator(".notice").all():
        box = notice.bounding_box()
        assert box is not None
        assert stage is not None
        assert box["x"] >= stage["x"] + stage["width"] or box["y"] + box["height"] <= stage["y"]
    page.press("Escape", "Escape")
    expect(page.page.locator(".notice")).to_have_count(0)


def test_a_stroke_asks_for_little(page: Annotator) -> None:
    """Not for the whole state, nor for the masks of other frames: the event or the answer says what changed."""
    asked: list[str] = []
    page.paint((16, 24), (40, 24))
    page.page.on("request", lambda request: asked.append(request.method + " " + request.url.rpartition("/api/")[2]))
    page.drag((16, 30), (40, 30)).settled()
    video = page.state()["id"]
    assert asked == [f"PUT videos/{video}/objects/1/prompts/0", f"GET videos/{video}/masks/0"]
    state = httpx.get(f"{page.url}api/videos/{video}").json()
    assert page.state()["revision"] == state["revision"]
    assert page.state()["prompts"]["1"] == state["prompts"]["1"]


def test_up_to_a_frame_that_is_none_is_said_in_words(page: Annotator) -> None:
    page.paint((16, 24), (40, 24))
    form = page.page.locator("#propagate")
    form.get_by_text("Up to").click()
    for wrong in ("3.7", "", "99"):
        form.get_by_label("Last frame").fill(wrong)
        page.page.evaluate("document.activeElement.blur()")
        page.press("p")
        page.notice("“Up to” needs a whole number of a frame, 0 to 5.")
    form.get_by_text("Backward").click()
    form.get_by_text("All the way").click()
    page.page.route("**/import", lambda route: route.fulfill(status=404, body='{"error": "there is no folder"}'))
    page.page.get_by_role("button", name="Import").click()
    page.page.locator("#import-form").get_by_label("Folder").fill("nothing")
    page.page.locator("#import-form").get_by_role("button", name="Import").click()
    page.notice("there is no folder")
    page.forgive(lambda trouble: "404" in trouble)


def test_a_failed_import_does_not_speak_of_what_was_done(page: Annotator, clips: Path) -> None:
    (clips / "wrong").mkdir()
    (clips / "wrong" / "x.png").write_bytes(b"no picture")
    page.page.get_by_role("button", name="Import").click()
    expect(page.page.locator("#sources option[value=wrong]")).to_be_attached(timeout=PATIENCE_MS)
    page.page.locator("#import-form").get_by_label("Folder").fill("wrong")
    page.page.locator("#import-form").get_by_role("button", name="Import").click()
    said = page.page.locator(".notice", has_text="Import wrong failed")
    expect(said).to_be_visible(timeout=PATIENCE_MS)
    assert "kept" not in said.inner_text()


def test_the_open_list_follows_the_folder_and_errors_can_be_tried_again(page: Annotator, clips: Path) -> None:
    (clips / "late.mp4").write_bytes(b"half a video")
    page.press("v")
    page.page.get_by_role("button", name="late.mp4").click(timeout=PATIENCE_MS)
    expect(page.page.locator("#videos .wrong")).to_contain_text("Click to try again", timeout=PATIENCE_MS)
    (clips / "late.mp4").unlink()
    write_frames(clips / "late.mp4", 2)
    expect(page.page.locator("#videos .wrong")).to_have_count(0, timeout=PATIENCE_MS)
    page.page.get_by_role("button", name="late.mp4").click()
    page.frame(0).settled()
    assert page.state()["frames"] == 2
    page.forgive(lambda trouble: "422" in trouble or "404" in trouble)


def test_a_propagation_that_broke_off_is_offered(
    browser: Any, clips: Path, tmp_path: Path, predictor: I2VPPVideoPredictor
) -> None:
    workspace = make_workspace(clips, tmp_path / "out", lambda: predictor)
    with serving(workspace) as server, annotator(browser, server.url) as page:
        page.open("disc").frame(0).settled().click(20, 24).settled()
        gate = Gate(predictor, free=2)
        page.press("p")
        gate.wait()
        page.page.goto("about:blank")
        page.forgive(lambda trouble: True)
    gate.open()
    until(lambda: workspace.stopped)
    with serving(make_workspace(clips, tmp_path / "out", lambda: predictor)) as server:
        listed = {one["name"]: one for one in httpx.get(f"{server.url}api/library").json()["videos"]}
        assert (listed["disc"]["frames"], listed["disc"]["annotated"] >= 2) == (FRAMES, True), (
            "known before it is opened"
        )
        with annotator(browser, server.url) as page:
            page.open("disc").frame(0)
            expect(page.page.locator("#broken")).to_contain_text("broke off at frame")
            page.page.get_by_role("button", name="Go on").click()
            page.notice("Propagated over")
            expect(page.page.locator("#broken")).to_be_hidden()
            assert all(page.masks(frame) for frame in range(FRAMES))


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_phone(browser: Any, url: str, scheme: Any) -> None:
    with annotator(browser, url, viewport=PHONE, has_touch=True, color_scheme=scheme) as page:
        page.open("disc").frame(0).settled()
        assert page.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        page.page.touchscreen.tap(*page.place(20, 24))
        page.settled()
        page.page.locator("#take-away").tap()
        page.page.touchscreen.tap(*page.place(40, 10))
        page.settled()
        assert [label for *_, label in page.prompts()["points"]] == [1, 0]
        pinch(page, 1.5)
        scale = page.page.evaluate("async () => (await import('/static/stage.js')).view.scale")
        pinch(page, 2)
        assert page.page.evaluate("async () => (await import('/static/stage.js')).view.scale") == pytest.approx(
            2 * scale
        )
        assert len(page.prompts()["points"]) == 2, "two fingers are no click"
        notify(page, "error", "trouble")
        expect(page.page.locator(".notice")).to_be_in_viewport()
        assert page.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        primary, fill = page.page.evaluate(
            "() => { const style = getComputedStyle(document.getElementById('start-propagation'));"
            " return [style.color, style.backgroundColor]; }"
        )
        assert contrast(primary, fill) >= 4.5


def pinch(page: Annotator, factor: float) -> None:
    """Two fingers move apart on the frame."""
    box = page.page.locator("#stage").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    cdp = page.page.context.new_cdp_session(page.page)

    def send(kind: str, *distances: float) -> None:
        points = [{"x": x + sign * d, "y": y, "id": i} for d in distances for i, sign in enumerate((-1, 1))]
        cdp.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    send("touchStart", 40)
    send("touchMove", 40 * factor)
    send("touchEnd")


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG between two colours, as `rgb(r, g, b)`."""

    def light(color: str) -> float:
        values = [int(part) / 255 for part in color.strip("rgb()").split(",")]
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)
