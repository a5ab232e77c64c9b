"""What the page draws while frames of a propagation arrive, by counts, which no other program changes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from annotate_page import Annotator, annotator, chromium
from annotator import make_workspace, serving
from media import moving_disc
from models import encode_once, make_predictor

if TYPE_CHECKING:
    from playwright.sync_api import Route

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
SLOW_WORKER = """
  const { set } = Object.getOwnPropertyDescriptor(Worker.prototype, "onmessage");
  Object.defineProperty(Worker.prototype, "onmessage", {
    set(listener) {
      set.call(this, (event) => setTimeout(() => listener(event), window.delay ?? 0));
    },
  });
"""  # its answers arrive `window.delay` milliseconds later
PASS_BY = """async () => {
  const { goTo } = await import('/static/state.js');
  const picture = () => new Promise(requestAnimationFrame);
  window.delay = 100;
  window.visits = [];
  goTo(1);
  await picture();
  await picture(); // the masks of frame 1 are being drawn
  goTo(2);
  await new Promise((resume) => setTimeout(resume, 1500));
  return { drawings: window.visits.length, frame: document.getElementById('stage').dataset.frame };
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


def test_a_frame_that_arrives_is_drawn_once_as_it_is_and_its_masks_elsewhere(page: Annotator) -> None:
    page.click(640, 360).settled()
    # The new object's timeline has made the stage lower: frames are fetched again, to be drawn unscaled.
    while not page.page.evaluate("!window.pictures.coming && performance.now() - window.pictures.last > 1000"):
        page.page.wait_for_timeout(100)
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
    page.page.add_init_script(SLOW_WORKER)
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.page.route("**/frames/2?*", hold)
    page.page.goto("about:blank")
    page.open().frame(FRAMES - 1)
    page.press("Home").frame(0).settled()
    page.press("ArrowRight").frame(1).settled().press("Home").frame(0).settled()
    assert page.page.evaluate(PASS_BY) == {"drawings": 1, "frame": "1"}, "not in turns with the frame before it"

    for route in held:
        route.continue_()
    page.frame(2).settled()
