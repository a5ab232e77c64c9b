"""The annotator from end to end: its page in headless Chromium on a real server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotate_page import BRUSH, PATIENCE_MS, Annotator, annotator, chromium, expect
from annotator import HEIGHT, WIDTH, Gate, make_workspace, serving, until, write_frames
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import encode_once, make_predictor
from sav_dataset.png_video import PngVideo
from sav_dataset.sav_evaluator import evaluate

REPO = Path(__file__).resolve().parent.parent
FRAMES = 6
ATTACK = "<img src=x onerror=\"document.title='broken'\">"
DRAWN = """async () => {
  const { drawnObjects, masksOf } = await import('/static/masks.js');
  const { MaskPicture } = await import('/static/mask_picture.js');
  const { app } = await import('/static/state.js');
  const drawn = drawnObjects(masksOf(0)).map(({ id, color }) => ({ number: id, runs: masksOf(0).get(id), color }));
  const canvas = new MaskPicture().draw(drawn, { width: 64, height: 48 }, app.stripes);
  return [...canvas.getContext('2d').getImageData(0, 0, 64, 48).data].filter((_, i) => i % 4 < 3);
}"""  # red, green, blue of the picture of all masks
EDGES = """async () => {
  const { masksOf } = await import('/static/masks.js');
  const { outlineOf } = await import('/static/outlines.js');
  const outline = outlineOf(masksOf(0).get(1), 64, 48);
  const context = document.createElement('canvas').getContext('2d');
  context.lineWidth = 0.2;
  const on = (x, y) => context.isPointInStroke(outline, x, y);
  const grid = (test) => Array.from({ length: 49 }, (_, y) => Array.from({ length: 65 }, (_, x) => test(x, y)));
  return [grid((x, y) => on(x, y + 0.5)), grid((x, y) => on(x + 0.5, y))];
}"""  # whether the left and the upper edge of each pixel belong to the outline of object 1


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def url(tmp_path: Path, output: Path, predictor: I2VPPVideoPredictor) -> Iterator[str]:
    """A server of one video of six frames of 64 x 48 pixels."""
    clip = write_frames(tmp_path / "clip", FRAMES)
    with serving(make_workspace(clip, output, lambda: predictor, masks=tmp_path)) as server:
        yield server.url


@pytest.fixture
def page(browser: Any, url: str) -> Iterator[Annotator]:
    """A page with that video open."""
    with annotator(browser, url) as opened:
        yield opened.open().frame(0).settled()


def test_clicks_answer_with_a_mask_and_can_be_taken_back(page: Annotator) -> None:
    before = page.picture()
    page.click(20, 24).settled()
    after = page.picture()
    mask = page.masks(0)[1]
    assert mask.any()
    assert np.abs(after - before).max() > 60, "the mask is seen"
    assert page.prompts()["points"] == [[pytest.approx(20, abs=1), pytest.approx(24, abs=1), 1]]
    expect(page.page.locator("#first-step")).to_be_hidden()

    page.click(40, 10, button="right").settled()
    page.click(50, 40, shift=True).settled()
    assert [label for *_, label in page.prompts()["points"]] == [1, 0, 0]
    expect(page.page.locator("#prompts li")).to_have_count(3)

    page.press("z", "z").settled()
    assert [label for *_, label in page.prompts()["points"]] == [1]
    assert np.array_equal(page.masks(0)[1], mask)
    np.testing.assert_allclose(page.picture(), after, atol=2)
    page.press("z").settled()
    assert np.array_equal(page.picture(), before), "undone, the frame is as it was"
    page.press("y").settled()
    np.testing.assert_allclose(page.picture(), after, atol=2)


def test_strokes_are_painted_where_the_pointer_was(page: Annotator) -> None:
    bare = {point: page.color(*point) for point in ((20, 24), (50, 8), (34, 24))}
    page.paint((16, 24), (40, 24))
    color = np.array([int(page.state()["objects"][0]["color"][i : i + 2], 16) for i in (1, 3, 5)])
    mask = page.masks(0)[1]
    assert mask[24, 16:40].all()
    assert not mask[24 + BRUSH + 2].any()
    page.press("c")
    inside = page.color(34, 28)
    expected = 0.5 * color + 0.5 * bare[34, 24]
    assert np.abs(inside - color).sum() < np.abs(bare[34, 24] - color).sum()
    assert np.abs(inside - expected).max() < 60, (inside, expected)
    assert np.array_equal(page.color(50, 8), bare[50, 8]), "nothing is drawn beside the mask"

    page.press("e").drag((34, 10), (34, 38)).settled()
    assert not page.masks(0)[1][24, 30:38].any()
    assert [stroke["erase"] for stroke in page.prompts()["strokes"]] == [False, True]
    page.press("z").settled()
    assert np.array_equal(page.masks(0)[1], mask)


def test_masks_are_drawn_to_the_pixel_and_overlaps_in_stripes(page: Annotator) -> None:
    page.paint((16, 24), (40, 24))
    page.press("n").settled()
    page.paint((30, 16), (30, 40))
    stored = page.masks(0)
    drawn = np.array(page.page.evaluate(DRAWN)).reshape(HEIGHT, WIDTH, 3)
    first, second = ([int(one["color"][i : i + 2], 16) for i in (1, 3, 5)] for one in page.state()["objects"])
    assert np.array_equal(drawn.any(axis=2), stored[1] | stored[2])
    assert (drawn[stored[1] & ~stored[2]] == first).all()
    assert (drawn[stored[2] & ~stored[1]] == second).all()
    assert 0.3 < (drawn[stored[1] & stored[2]] == first).all(axis=1).mean() < 0.7

    page.press("o").settled()
    drawn = np.array(page.page.evaluate(DRAWN)).reshape(HEIGHT, WIDTH, 3)
    on_top = first if stored[1].sum() < stored[2].sum() else second
    assert (drawn[stored[1] & stored[2]] == on_top).all(), "resolved: the smaller object, or of equal ones the later"
    expect(page.page.locator("#stripes")).to_have_attribute("aria-pressed", "false")
    page.press("o").settled()

    inside = np.pad(stored[1], 1)
    left = (inside != np.roll(inside, 1, axis=1))[1:-1]
    above = (inside != np.roll(inside, 1, axis=0))[:, 1:-1]
    edges = np.array(page.page.evaluate(EDGES))
    assert np.array_equal(edges[0, :HEIGHT, : WIDTH + 1], left[:, 1:]), "left edges of pixels"
    assert np.array_equal(edges[1, : HEIGHT + 1, :WIDTH], above[1:]), "upper edges of pixels"


def test_prompts_are_moved_and_deleted_one_by_one(page: Annotator) -> None:
    page.drag((10, 10), (40, 40)).settled()
    assert page.prompts()["box"] == [pytest.approx(v, abs=1) for v in (10, 10, 40, 40)]
    page.click(20, 24).settled().click(30, 30, button="right").settled()
    page.drag((20, 24), (25, 20)).settled()
    assert page.prompts()["points"] == [
        [pytest.approx(v, abs=1) for v in point] for point in ((25, 20, 1), (30, 30, 0))
    ]
    page.drag((40, 40), (50, 44)).settled()
    assert page.prompts()["box"] == [pytest.approx(v, abs=1) for v in (10, 10, 50, 44)]

    page.click(25, 20).press("Delete").settled()
    assert [label for *_, label in page.prompts()["points"]] == [0]
    page.click(30, 30)
    left, top = page.place(30, 30)
    page.page.mouse.click(left + 13, top - 13)  # the × beside the selected prompt
    page.settled()
    assert page.prompts()["points"] == []
    page.page.locator("#prompts").get_by_role("button", name=re.compile("^Delete")).click()
    page.settled()
    assert page.prompts() == {}
    assert page.masks(0) == {}
    expect(page.page.locator("#prompts")).to_contain_text("None for")


def test_objects_have_names_and_colours_and_can_be_hidden_locked_and_deleted(page: Annotator) -> None:
    page.paint((10, 10), (20, 10))
    page.press("n").settled()
    page.paint((40, 38), (50, 38))
    assert sorted(page.masks(0)) == [1, 2]
    page.press("1", "r")
    page.page.keyboard.type("Disc")
    page.press("Enter").settled()
    assert [one["name"] for one in page.state()["objects"]] == ["Disc", "Object 2"]
    page.page.get_by_label("Colour of Disc").fill("#102030")
    until(lambda: page.state()["objects"][0]["color"] == "#102030")

    shown = page.color(15, 14)
    page.press("h").settled()
    assert page.state()["objects"][0]["hidden"]
    assert np.abs(page.color(15, 14) - shown).max() > 10, "a hidden mask is not drawn"
    page.drag((10, 10), (20, 10))
    page.notice("“Disc” is hidden. Show it")
    page.press("h", "l").settled().drag((10, 10), (20, 10))
    page.notice("“Disc” is locked. Unlock it")
    assert len(page.prompts()["strokes"]) == 1

    page.press("2", "Shift+Delete").settled()
    assert [one["id"] for one in page.state()["objects"]] == [1]
    page.page.locator(".notice").get_by_role("button", name="Undo").click()
    page.settled()
    expect(page.page.locator("#objects li")).to_have_count(2)
    assert sorted(page.masks(0)) == [1, 2]


def test_propagation_shows_its_progress_and_keeps_what_is_done(page: Annotator, predictor: I2VPPVideoPredictor) -> None:
    page.click(20, 24).settled()
    gate = Gate(predictor, free=3)
    page.press("p")
    gate.wait()
    expect(page.page.locator("#job-frames")).to_have_text("3 / 6", timeout=PATIENCE_MS)
    expect(page.page.locator("#job-speed")).to_contain_text("frames/s")
    assert page.page.locator("#job-bar").evaluate("bar => bar.value / bar.max") == 0.5
    page.frame(2)  # it follows
    page.press("Home").frame(0).click(50, 40, button="right")  # an edit stops it
    page.stopping()
    gate.open()
    page.settled()
    expect(page.page.locator("#job")).to_be_hidden(timeout=PATIENCE_MS)
    page.notice("what was done is kept")
    done = [frame for frame in range(FRAMES) if page.masks(frame)]
    assert done[:3] == [0, 1, 2]
    assert done != list(range(FRAMES))
    assert [label for *_, label in page.prompts()["points"]] == [1, 0]

    gate = Gate(predictor, free=1)
    page.page.get_by_role("button", name="Propagate").click()
    gate.wait()
    page.page.get_by_role("button", name="Cancel").click()
    page.stopping()
    gate.open()
    page.notice("Stopped after")
    page.press("Home").frame(0).press("p")
    page.notice("Propagated over 6 frames.")
    assert all(page.masks(frame) for frame in range(FRAMES))
    page.press("z").settled()
    assert not page.masks(FRAMES - 1), "one undo takes the whole propagation back"


def test_a_part_of_the_video_and_of_the_objects(page: Annotator) -> None:
    page.press("ArrowRight", "ArrowRight", "ArrowRight").frame(3)
    page.paint((20, 24), (24, 24))
    page.press("n").settled()
    page.paint((40, 24), (44, 24))
    form = page.page.locator("#propagate")
    form.get_by_text("Backward").click()
    form.get_by_text("Up to").click()
    form.get_by_label("Last frame").fill("2")
    form.get_by_text("Chosen").click()
    form.get_by_role("checkbox", name="Object 1").uncheck()
    expect(page.page.locator("#propagate-hint")).to_have_text("From frame 3 to 2")
    form.get_by_role("button", name="Propagate").click()
    page.notice("Propagated over 2 frames.")
    assert [sorted(page.masks(frame)) for frame in range(FRAMES)] == [[], [], [2], [1, 2], [], []]
    page.page.locator("#frame-number").fill("1")
    page.press("Enter").frame(1)
    form.get_by_role("button", name="Propagate").click()
    page.notice("choose an earlier one")


def test_two_tabs_stay_in_step(browser: Any, page: Annotator) -> None:
    with annotator(browser, page.url) as other:
        other.page.route("**/api/events", lambda route: route.abort())  # does not hear of the first tab's work
        other.open().frame(0)
        page.paint((10, 10), (20, 10))
        other.press("n")
        other.notice("changed this video in the meantime")
        assert other.state()["revision"] == page.state()["revision"]
        expect(other.page.locator("#objects li")).to_have_count(1)
        other.press("n")
        expect(other.page.locator("#objects li")).to_have_count(2)
        expect(page.page.locator("#objects li")).to_have_count(2)  # the first tab hears of the second's
        other.forgive(lambda trouble: "409" in trouble or "ERR_FAILED" in trouble)


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_narrow_window_shows_everything(browser: Any, url: str, scheme: str) -> None:
    with annotator(browser, url, viewport={"width": 900, "height": 640}, color_scheme=scheme) as page:
        page.open().frame(0).settled()
        page.paint((10, 10), (20, 10))
        page.press("c")
        assert page.page.evaluate("document.documentElement.scrollWidth") == 900
        controls = page.page.locator("button:visible, input:visible")
        boxes = "nodes => nodes.map(node => [node.id, node.getBoundingClientRect()])"
        sides = f"nodes => ({boxes})(nodes).map(([id, box]) => [id, box.left, box.right])"
        for name, left, right in controls.evaluate_all(sides):  # in one piece: panels may change meanwhile
            assert 0 <= left <= right <= 900, name
        background = page.page.locator("body").evaluate("node => getComputedStyle(node).backgroundColor")
        brightness = np.mean([int(v) for v in re.findall(r"\d+", background)])
        assert (brightness < 60) == (scheme == "dark")


def test_zoom_pan_and_moving_through_the_video(page: Annotator) -> None:
    at = page.place(32, 24)
    page.page.mouse.move(*at)
    page.page.mouse.wheel(0, -400)
    expect(page.page.locator("#zoom")).not_to_have_text("100 %")
    assert page.place(32, 24) == pytest.approx(at, abs=0.5), "the point under the pointer stays"
    page.drag((32, 24), (36, 24), button="middle")
    moved = page.place(32, 24)
    assert moved[0] > at[0] + 10
    page.page.keyboard.down(" ")
    page.drag((32, 24), (30, 24))
    page.page.keyboard.up(" ")
    assert page.place(32, 24)[0] < moved[0] - 5
    assert not page.state()["objects"], "panning is no click"
    page.press("f")
    assert page.place(32, 24) == pytest.approx(at, abs=0.5)

    page.press("End").frame(FRAMES - 1).press("ArrowLeft").frame(FRAMES - 2).press("Home").frame(0)
    page.press(" ").frame(FRAMES - 1)  # plays to the end
    head = page.page.locator("#timeline-head").bounding_box()
    assert head is not None
    page.page.mouse.move(head["x"] + 2, head["y"] + 30)
    page.page.mouse.down()
    page.page.mouse.move(head["x"] + head["width"] * 0.6, head["y"] + 30, steps=5)
    page.page.mouse.up()
    page.frame(3)
    page.paint((10, 10), (20, 10))
    page.press("Home").frame(0).press(".").frame(3)
    page.press("d")
    page.notice("No doubtful frames")
    page.press("?")
    expect(page.page.get_by_role("heading", name="Keys and gestures")).to_be_visible()
    page.press("n", "Escape")
    expect(page.page.locator("#objects li")).to_have_count(1)  # keys are not served below a dialog


def test_keys_alone_are_enough(page: Annotator) -> None:
    page.page.locator("#stage").focus()
    page.press("Alt+ArrowRight", "Alt+Shift+ArrowDown", "Enter").settled()
    assert page.prompts()["points"] == [[pytest.approx(32, abs=2), pytest.approx(24, abs=1), 1]]
    page.press("Alt+ArrowLeft", "Shift+Enter").settled()
    assert [label for *_, label in page.prompts()["points"]] == [1, 0]


def test_what_is_drawn_belongs_to_the_frame_where_it_was_begun(page: Annotator) -> None:
    page.page.evaluate("async () => { (await import('/static/state.js')).app.following = true; }")
    page.page.mouse.move(*page.place(10, 10))
    page.page.mouse.down()
    assert page.page.evaluate("async () => (await import('/static/state.js')).app.following") is False, "it stays"
    page.page.mouse.move(*page.place(40, 30), steps=4)
    page.press("ArrowRight").frame(1)
    page.page.mouse.up()
    page.settled()
    assert page.state()["objects"] == [], "the box was given up"
    page.drag((10, 10), (40, 30)).settled()
    assert page.prompts(frame=1)["box"] == pytest.approx([10, 10, 40, 30], abs=1)


def test_an_answer_does_not_call_back_who_went_on(page: Annotator) -> None:
    held = page.hold("**/doubtful?*")
    page.press("d", "d", "ArrowRight").frame(1)
    while len(held) < 2:
        page.page.wait_for_timeout(20)
    for route in held:
        route.fulfill(json={"frame": 4})
    page.settled()
    page.page.wait_for_timeout(300)
    page.frame(1)
    page.press("d")
    while len(held) < 3:
        page.page.wait_for_timeout(20)
    held[2].fulfill(json={"frame": 4})
    page.frame(4)


def test_the_list_of_what_can_be_imported_is_the_latest(page: Annotator) -> None:
    held = page.hold("**/importable")
    for _ in range(2):
        page.page.locator("#show-import").click()
        page.press("Escape")
    while len(held) < 2:
        page.page.wait_for_timeout(20)
    page.page.locator("#show-import").click()
    while len(held) < 3:
        page.page.wait_for_timeout(20)
    for number in (2, 0, 1):
        held[number].fulfill(json={"sources": [f"answer {number}"]})
    expect(page.page.locator("#sources option")).to_have_text(["answer 2"])
    page.page.wait_for_timeout(300)
    expect(page.page.locator("#sources option")).to_have_text(["answer 2"])


def test_errors_come_in_words_and_nothing_is_lost(page: Annotator) -> None:
    page.paint((10, 10), (20, 10))
    answer = json.dumps({"error": "no space is left on the disk; nothing was changed"})
    page.page.route("**/prompts/0", lambda route: route.fulfill(status=507, body=answer))
    page.drag((40, 30), (50, 30))
    page.notice("no space is left on the disk; nothing was changed")
    assert len(page.state()["prompts"]["1"]["0"]["strokes"]) == 1
    page.page.unroute("**/prompts/0")
    page.page.route("**/frames/1?*", lambda route: route.fulfill(status=422, body='{"error": "frame 1 is damaged"}'))
    page.page.reload()
    page.frame(0).press("ArrowRight")
    expect(page.page.locator("#stage-note")).to_have_text("Frame 1 cannot be shown: frame 1 is damaged")
    page.press("ArrowRight").frame(2)
    expect(page.page.locator("#stage-note")).to_be_hidden()
    page.forgive(lambda trouble: "507" in trouble or "422" in trouble)


@pytest.mark.parametrize("kind", ["sav", "davis"])
def test_exported_masks_are_read_back_and_imported(page: Annotator, output: Path, tmp_path: Path, kind: str) -> None:
    page.paint((16, 24), (40, 24))
    page.press("ArrowRight").frame(1)
    page.paint((16, 30), (40, 30))
    page.press("End").frame(FRAMES - 1)
    page.paint((16, 36), (40, 36))
    page.page.get_by_role("button", name="Export").click()
    page.page.locator(f"#export-form input[value={kind}]").check()
    page.page.locator("#export-form").get_by_role("button", name="Export").click()
    page.notice("Exported to “exports/")
    folder = next(output.glob(f"exports/*/{kind}"))
    wanted = {frame: page.masks(frame)[1] for frame in (0, 1, FRAMES - 1)}
    if kind == "sav":
        video = PngVideo("clip", tmp_path / "clip", folder)
        found = {int(video.frame_name(t)): video.masks(t)[1] for t in range(len(video))}
    else:
        found = {int(path.stem): np.asarray(Image.open(path)) == 1 for path in folder.glob("*.png")}
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[frame], wanted[frame]) for frame in wanted)
    truth = tmp_path / "truth" / kind
    for frame, mask in wanted.items():
        path = truth / ("001" if kind == "sav" else "") / f"{frame:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask.astype(np.uint8)).save(path)
    scores = evaluate(truth.parent, folder.parent)
    assert (scores.mean.objects, scores.mean.j, scores.mean.f) == (1, 100, 100)

    name = folder.relative_to(output.parent).as_posix()
    page.page.get_by_role("button", name="Import").click()
    page.page.locator("#import-form").get_by_label("Folder").fill(name)
    page.page.locator("#import-form").get_by_text("To correct").click()
    page.page.locator("#import-form").get_by_role("button", name="Import").click()
    page.notice("Imported 1 object with 3 masks.")
    page.settled()
    assert np.array_equal(page.masks(FRAMES - 1)[2], wanted[FRAMES - 1])
    expect(page.page.locator("#objects li")).to_have_count(2)
