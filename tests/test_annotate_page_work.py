"""What the page draws while frames of a propagation arrive, by counts, which no other program changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from annotate_page import Annotator, annotator, chromium
from annotator import make_workspace, serving
from media import moving_disc
from models import encode_once, make_predictor

FRAMES = 6
COUNT = """
  window.work = { frames: 0, scaled: 0, layers: 0, pixels: 0, paths: 0 };
  const page = CanvasRenderingContext2D.prototype;
  const { drawImage, putImageData, stroke } = page;
  window.visits = []; // time and address, which names the frame, of every drawing of a frame
  page.drawImage = function (image, ...place) {
    if (image instanceof ImageBitmap && !this.canvas.isConnected) window.visits.push([Date.now(), location.hash]);
    if (image instanceof ImageBitmap && this.canvas.isConnected) window.work.layers += 1;
    else if (image instanceof ImageBitmap) window.work[place.length > 2 ? 'scaled' : 'frames'] += 1;
    return drawImage.call(this, image, ...place);
  };
  page.putImageData = function (...pixels) {
    window.work.pixels += 1;
    return putImageData.apply(this, pixels);
  };
  page.stroke = function (...path) {
    window.work.paths += path.length;
    return stroke.apply(this, path);
  };
  const load = window.fetch;
  window.pictures = { coming: 0, last: 0 };
  window.fetch = async function (address, ...options) {
    const picture = /frames[/][0-9]+[?]width/.test(String(address));
    if (picture) window.pictures.coming += 1;
    try {
      return await load.call(this, address, ...options);
    } finally {
      if (picture) Object.assign(window.pictures, { coming: window.pictures.coming - 1, last: performance.now() });
    }
  };
"""  # frames are drawn on a canvas beside the page, layers of masks on the one that is seen
HELD_WORKER = """
  const { set } = Object.getOwnPropertyDescriptor(Worker.prototype, "onmessage");
  window.answers = null; // of the worker, while they are held
  Object.defineProperty(Worker.prototype, "onmessage", {
    set(listener) {
      set.call(this, (event) => (window.answers ? window.answers.push(() => listener(event)) : listener(event)));
    },
  });
"""
PASS_BY = """async () => {
  const { goTo } = await import('/static/state.js');
  const stage = document.getElementById('stage');
  const pictures = async (count) => {
    for (let i = 0; i < count; i++) await new Promise(requestAnimationFrame);
  };
  window.answers = [];
  window.visits = [];
  goTo(1);
  await pictures(5); // the masks of frame 1 are being drawn
  const before = stage.dataset.frame;
  goTo(2);
  for (let i = 0; i < 10; i++) {
    await pictures(5);
    window.answers.splice(0).forEach((answer) => answer());
    await new Promise((resume) => setTimeout(resume, 20));
  }
  window.answers = null;
  return { before, drawings: window.visits.length, after: stage.dataset.frame };
}"""


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Annotator]:
    """A page with a video that is larger than the stage, its drawing counted in `window.work`."""
    clip = tmp_path / "clip"
    clip.mkdir()
    for i, frame in enumerate(moving_disc(FRAMES, 720, 1280)[0]):
        Image.fromarray(frame).save(clip / f"{i:05d}.jpg")
    predictor = encode_once(make_predictor())
    with (
        serving(make_workspace(clip, tmp_path / "out", lambda: predictor)) as server,
        chromium() as browser,
        annotator(browser, server.url) as opened,
    ):
        opened.page.add_init_script(COUNT)
        yield opened.open().frame(0).settled()


def wait_for_quiet(page: Annotator, *, coming: int = 0) -> None:
    """Wait until no picture has come for a second, and as many are still awaited as are held back."""
    quiet = f"window.pictures.coming === {coming} && performance.now() - window.pictures.last > 1000"
    while not page.page.evaluate(quiet):
        page.page.wait_for_timeout(100)


def test_a_frame_that_arrives_is_drawn_once_as_it_is_and_its_masks_elsewhere(page: Annotator) -> None:
    page.click(640, 360).settled()
    wait_for_quiet(page)  # the new object's timeline has made the stage lower: frames are fetched again
    before: dict[str, Any] = page.page.evaluate("window.work")
    page.press("p")
    page.notice(f"Propagated over {FRAMES} frames.")
    page.frame(FRAMES - 1).settled()
    work = {name: count - before[name] for name, count in page.page.evaluate("window.work").items()}
    assert all(page.masks(frame) for frame in range(FRAMES))
    visits = page.page.evaluate("window.visits")
    assert 1 <= work["frames"] <= FRAMES, f"a frame is drawn once, whatever else changes meanwhile: {work}, {visits}"
    assert work["layers"] >= 1, "the masks that a worker has drawn"
    assert (work["scaled"], work["pixels"], work["paths"]) == (0, 0, 0), "what takes long is not done in the page"

    page.press("+").settled()
    zoomed = page.page.evaluate("window.work")
    assert zoomed["scaled"] > before["scaled"], "a zoomed frame is scaled"
    assert (zoomed["pixels"], zoomed["paths"]) == (0, 0)


def test_a_frame_that_is_passed_by_stays_until_the_next_arrives(page: Annotator) -> None:
    page.click(640, 360).settled().press("p")
    page.notice(f"Propagated over {FRAMES} frames.")
    page.page.add_init_script(HELD_WORKER)
    held = page.hold("**/frames/2?*")
    place = re.sub("frame=.*", "frame=0", page.page.evaluate("location.hash"))
    page.page.goto("about:blank")
    page.open(place=place).frame(0).settled()
    page.press("ArrowRight").frame(1).settled().press("Home").frame(0).settled()
    wait_for_quiet(page, coming=1)
    found = page.page.evaluate(PASS_BY)
    assert found == {"before": "0", "drawings": 1, "after": "1"}, "not in turns with the frame before it"

    for route in held:
        route.continue_()
    page.frame(2).settled()
