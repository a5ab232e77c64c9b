"""What a person waits for in the annotator, measured in headless Chromium on a real server."""

from __future__ import annotations

import itertools
import math
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from i2vpp.annotate.library import open_library
from i2vpp.annotate.storage.store import Annotation
from i2vpp.annotate.storage.values import Prompts, StoredMask
from i2vpp.annotate.tracking.model import Model
from i2vpp.annotate.web.server import Address, Server
from i2vpp.annotate.workspace import Workspace
from i2vpp.errors import I2VPPError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.utils.suggest import how_to_install

if TYPE_CHECKING:
    from playwright.sync_api import Page

WINDOW_WIDTH, WINDOW_HEIGHT = 1440, 900
PATIENCE_MS = 300_000.0
PICTURES = 30  # that differ; the frames of the video are these, again and again
SETTLE_SECONDS = 1.0  # between two measurements: frames and masks around the new one are loaded
WATCH = """() => {
  const canvas = document.getElementById('stage');
  window.bench = { from: null, to: null, tasks: [] };
  canvas.addEventListener('pointerup', () => Object.assign(window.bench, { from: performance.now(), to: null }), true);
  new MutationObserver(() => {
    if (canvas.ariaBusy === 'false' && window.bench.from !== null) window.bench.to ??= performance.now();
    if (canvas.ariaBusy === 'true') window.bench.to = null;
  }).observe(canvas, { attributes: true, attributeFilter: ['aria-busy'] });
  new PerformanceObserver((list) => {
    for (const { startTime, duration } of list.getEntries()) window.bench.tasks.push([startTime, duration]);
  }).observe({ type: 'longtask' });
}"""
READ = """() => {
  const { from, to, tasks } = window.bench;
  const since = performance.getEntriesByType('resource').filter(({ startTime }) => startTime >= from - 1);
  const requests = since.map(({ name, startTime, responseEnd, transferSize }) => {
    const path = name.replace(/^.*[/]api[/]videos[/][^/]*/, '');
    return { path, from: startTime - from, to: responseEnd - from, bytes: transferSize };
  });
  const long = tasks.filter(([start]) => start >= from).map(([, duration]) => duration);
  return { milliseconds: to - from, requests, tasks: long };
}"""
ENDED = """() => new Promise((done) => {
  const link = document.getElementById('link');
  const look = () => (window.bench.to !== null && link.dataset.state === 'saved' ? done() : setTimeout(look, 50));
  look();
})"""


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured.

    Args:
        width: of the video in pixels.
        height: of the video in pixels.
        frames: of the video.
        objects: of the imported annotation; each has a mask on every frame.
        repeats: clicks and strokes.
        tracked: objects of the propagation.
        seconds: how long the page is watched during a propagation.
    """

    width: int = 1280
    height: int = 720
    frames: int = 1000
    objects: int = 20
    repeats: int = 10
    tracked: int = 5
    seconds: float = 60.0


@dataclass
class Spent:
    """Seconds that the network has taken, in whatever thread."""

    seconds: float = 0.0

    def timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return the call with its time added here."""

        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - start

        return run


def write_video(folder: Path, case: Case) -> Path:
    """Write the frames of a video in which colours move; return its folder.

    Args:
        folder: where to write.
        case: size and length.
    """
    folder.mkdir(parents=True)
    coarse = np.random.default_rng(0).integers(0, 256, (9, 16, 3), dtype=np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((case.width, case.height), Image.Resampling.BICUBIC))
    for t in range(case.frames):
        path = folder / f"{t:05d}.jpg"
        if t < PICTURES:
            Image.fromarray(np.roll(picture, 7 * t, axis=1)).save(path, quality=90)
        else:
            path.hardlink_to(folder / f"{t % PICTURES:05d}.jpg")
    return folder


def blob(case: Case, number: int, t: int) -> StoredMask:
    """Return the mask of an object on a frame: a round thing with a wavy edge that moves.

    Args:
        case: size of the video and number of objects.
        number: of the object.
        t: index of the frame.
    """
    columns = max(round(math.sqrt(case.objects * case.width / case.height)), 1)
    rows = -(-case.objects // columns)
    side = min(case.width / columns, case.height / rows)
    x = (number % columns + 0.5) * case.width / columns + side / 8 * math.sin(t / 20 + number)
    y = (number // columns + 0.5) * case.height / rows + side / 8 * math.cos(t / 30 + number)
    left, top, reach = int(x - side / 2), int(y - side / 2), int(side)
    dy, dx = np.ogrid[top - y : top - y + reach, left - x : left - x + reach]
    around = np.arctan2(dy, dx)
    near = np.hypot(dx, dy) < side / 3 * (1 + 0.12 * np.sin(7 * around + t / 9) + 0.03 * np.sin(31 * around))
    mask = np.zeros((case.height + 2 * reach, case.width + 2 * reach), bool)  # with room for what lies outside
    mask[top + reach : top + 2 * reach, left + reach : left + 2 * reach] = near[:reach, :reach]
    return StoredMask.of(np.ascontiguousarray(mask[reach : reach + case.height, reach : reach + case.width]))


def write_annotation(path: Path, case: Case) -> None:
    """Write an annotation as an import of masks "to correct" leaves it.

    Args:
        path: of the store.
        case: size, length and number of objects.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    masks = {(n, t): blob(case, n, t) for n, t in itertools.product(range(case.objects), range(min(case.frames, 60)))}
    with (
        Annotation(path, height=case.height, width=case.width, frames=case.frames) as store,
        store.edit("Import") as edit,
    ):
        for number in range(case.objects):
            info = edit.add_object()
            for t in range(case.frames):
                edit.set_prompts(info.id, t, Prompts(imported=True))
                edit.set_mask(info.id, t, masks[number, t % 60])


@contextmanager
def serving(videos: Path, output: Path, predictor: I2VPPVideoPredictor) -> Iterator[str]:
    """Serve a folder from a thread; yields the address.

    Args:
        videos: the folder.
        output: where annotations are.
        predictor: the network.
    """
    server = Server(Workspace(open_library(videos), output, Model(lambda: predictor, checkpoint="")), Address(port=0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    try:
        yield server.url
    finally:
        server.stop()
        thread.join()


@contextmanager
def opened(url: str) -> Iterator[Visit]:
    """Open the only video of a server in Chromium.

    Args:
        url: of the server.

    Raises:
        I2VPPError: there is no Chromium, or no Playwright.
    """
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only this needs it
    except ModuleNotFoundError as error:
        raise I2VPPError(f"the page is measured with Playwright: {how_to_install('dev')}") from error
    path = shutil.which("chromium")
    if path is None:
        raise I2VPPError("the page is measured in Chromium, which is not there: apt install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WINDOW_WIDTH, "height": WINDOW_HEIGHT})
        page.set_default_timeout(PATIENCE_MS)
        yield Visit(page, url)
        browser.close()


class Visit:
    """An open page that is watched.

    Args:
        page: of Playwright.
        url: of the server.
    """

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self._events = 0  # bytes
        self._cdp = page.context.new_cdp_session(page)
        self._cdp.send("Network.enable")
        self._cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
        self._cdp.on("Network.eventSourceMessageReceived", self._count)
        page.goto(url)
        self.settle()
        page.evaluate(WATCH)

    def _count(self, event: dict[str, Any]) -> None:
        self._events += len(event["data"].encode())

    def cpu_seconds(self) -> float:
        """Return the time that the page's main thread has worked: other programs on the machine do not count."""
        metrics = self._cdp.send("Performance.getMetrics")["metrics"]
        return next(float(one["value"]) for one in metrics if one["name"] == "TaskDuration")

    def settle(self) -> None:
        """Wait until everything is saved and drawn, and a little longer."""
        self.page.wait_for_selector("#stage[data-frame]")
        self.page.wait_for_selector("#stage[aria-busy=false]")
        time.sleep(SETTLE_SECONDS)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Return where a point of the video lies in the window."""
        view = self.page.evaluate("async () => (await import('/static/stage.js')).view")
        box = self.page.locator("#stage").bounding_box()
        assert box is not None
        return box["x"] + view["x"] + x * view["scale"], box["y"] + view["y"] + y * view["scale"]

    def click(self, x: float, y: float) -> dict[str, Any]:
        """Click a point of the video; return what came of it, see `measured`."""
        at = self.place(x, y)
        return self.measured(lambda: self.page.mouse.click(*at))

    def stroke(self, x: float, y: float, length: float) -> dict[str, Any]:
        """Paint a line with the brush; return what came of it after its end, see `measured`.

        Args:
            x: where it begins, in pixels of the video.
            y: where it is.
            length: how long it is.
        """
        start, end = self.place(x, y), self.place(x + length, y + length / 4)
        self.page.mouse.move(*start)
        self.page.mouse.down()
        self.page.mouse.move(*end, steps=20)
        return self.measured(self.page.mouse.up)

    def measured(self, act: Callable[[], None]) -> dict[str, Any]:
        """Do something that ends with the button being let go.

        Args:
            act: does it.

        Returns:
            `milliseconds` until its mask is drawn, `requests` in that time with their times after it, `bytes` that
            came, `cpu` (milliseconds that the page's main thread worked), `tasks` (milliseconds of those over 50).
        """
        self.page.evaluate("performance.clearResourceTimings()")
        self._events, before = 0, self.cpu_seconds()
        act()
        self.page.evaluate(ENDED)
        worked = self.cpu_seconds() - before
        time.sleep(SETTLE_SECONDS / 2)
        found: dict[str, Any] = self.page.evaluate(READ)
        found["cpu"] = 1000 * worked
        found["bytes"] = sum(request["bytes"] for request in found["requests"]) + self._events
        return found

    def long_tasks(self, seconds: float) -> list[float]:
        """Return the milliseconds of all tasks over 50 ms in the next seconds."""
        start = self.page.evaluate("performance.now()")
        time.sleep(seconds)
        tasks = self.page.evaluate("window.bench.tasks")
        return [duration for at, duration in tasks if at >= start]

    def job(self) -> dict[str, Any]:
        """Return what the page shows of the running job."""
        found = self.page.evaluate("async () => (await import('/static/state.js')).app.video.job")
        return found or {}

    def export(self, kind: str) -> float:
        """Export all masks; return the seconds that it took."""
        start = time.perf_counter()
        self.page.evaluate("async (kind) => (await import('/static/actions.js')).exportMasks(kind, 1)", kind)
        while self.job().get("state") == "running":
            time.sleep(0.2)
        if (state := self.job().get("state")) != "done":
            raise I2VPPError(f"the export to {kind} ended as {state}: {self.job().get('error')}")
        return time.perf_counter() - start


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the medians of some measurements, and the first one whole."""
    return {
        "milliseconds": median(one["milliseconds"] for one in found),
        "slowest": max(one["milliseconds"] for one in found),
        "cpu": median(one["cpu"] for one in found),
        "bytes": median(one["bytes"] for one in found),
        "requests": median(len(one["requests"]) for one in found),
        "each": found,
    }


def measure_clicks(visit: Visit, case: Case, spent: Spent) -> dict[str, Any]:
    """Click points of an empty annotation; the times are those beyond the network's."""
    found = []
    for i in range(case.repeats + 1):
        before = spent.seconds
        one = visit.click(case.width * (0.3 + 0.4 * ((i * 0.37) % 1)), case.height * (0.3 + 0.4 * ((i * 0.61) % 1)))
        network = 1000 * (spent.seconds - before)
        found.append({**one, "network": network, "milliseconds": one["milliseconds"] - network})
        visit.settle()
    return summary(found[1:])  # the first one makes the object


def measure_propagation(visit: Visit, case: Case) -> dict[str, Any]:
    """Propagate some objects, and count the tasks that block the page."""
    for number in range(1, case.tracked):
        visit.page.keyboard.press("n")
        visit.settle()
        visit.click(case.width * (number + 0.5) / case.tracked, case.height / 2)
    visit.page.keyboard.press("p")
    before = visit.cpu_seconds()
    tasks = visit.long_tasks(case.seconds)
    worked, done = visit.cpu_seconds() - before, visit.job().get("done", 0)
    visit.page.evaluate("async () => (await import('/static/actions.js')).cancel()")
    found = {"seconds": case.seconds, "cpu": worked / max(done, 1), "frames": done, "objects": case.tracked}
    return {**found, "long_tasks": tasks}


def measure_strokes(visit: Visit, case: Case) -> dict[str, Any]:
    """Paint on imported masks, in the middle of the video."""
    visit.page.evaluate("async (t) => (await import('/static/state.js')).goTo(t)", case.frames // 2)
    visit.page.keyboard.press("b")
    visit.settle()
    found = []
    for i in range(case.repeats + 1):
        found.append(visit.stroke(case.width * 0.3, case.height * (0.2 + 0.05 * (i % 12)), case.width / 8))
        visit.settle()
    return summary(found[1:])


def measure(case: Case, predictor: I2VPPVideoPredictor, folder: Path, *, exports: bool) -> dict[str, Any]:
    """Measure everything; see tools/benchmark_annotator.py.

    Args:
        case: sizes and numbers.
        predictor: the network.
        folder: an empty folder for video and annotations.
        exports: whether exports are measured, too; they take longest.

    Returns:
        `click`, `propagation`, `stroke` and, if wanted, `exports` (seconds by kind).
    """
    spent = Spent()
    predictor.add_new_points_or_box = spent.timed(predictor.add_new_points_or_box)  # type: ignore[method-assign]
    video = write_video(folder / "video", case)
    results: dict[str, Any] = {}
    with serving(video, folder / "empty", predictor) as url, opened(url) as visit:
        results["click"] = measure_clicks(visit, case, spent)
        results["propagation"] = measure_propagation(visit, case)
    name = open_library(video).videos[0].file_name
    write_annotation(folder / "imported" / f"{name}.sqlite", case)
    with serving(video, folder / "imported", predictor) as url, opened(url) as visit:
        results["stroke"] = measure_strokes(visit, case)
        if exports:
            results["exports"] = {kind: visit.export(kind) for kind in ("davis", "sav")}
    return results
