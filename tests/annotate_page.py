"""The annotator's page in a headless Chromium, as a person uses it."""

from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from annotator import decode_masks

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Route

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
expect = sync_api.expect

SIZE = {"width": 1100, "height": 760}
PATIENCE_MS = 60_000.0
expect.set_options(timeout=PATIENCE_MS)  # by itself 5 seconds, in which a busy machine may not get to answer
BRUSH = 8
NO_CONNECTION = re.compile(r"ERR_(CONNECTION_REFUSED|CONNECTION_RESET|EMPTY_RESPONSE|INCOMPLETE_CHUNKED_ENCODING)")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium; the test is skipped where there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("needs Chromium: apt install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass(kw_only=True)
class Annotator:
    """An open page.

    Args:
        page: of Playwright.
        url: of the server, with a slash in the end.
        troubles: what the page has complained of in its console, and what broke.
    """

    page: Page
    url: str
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.on("console", lambda said: self.troubles.extend([said.text] if said.type == "error" else []))

    def open(self, video: str | None = None, *, place: str = "") -> Annotator:
        """Load the page and choose a video of the list, if one is named, or if there is only one."""
        self.page.goto(self.url + place)
        if video is not None:
            self.page.get_by_role("button", name=video).click()
        return self

    def frame(self, index: int) -> Annotator:
        """Wait until a frame is on the canvas."""
        self.page.wait_for_selector(f"#stage[data-frame='{index}']")
        return self

    def settled(self) -> Annotator:
        """Wait until everything is saved and drawn."""
        self.page.wait_for_selector("#link[data-state=saved]")
        self.page.wait_for_selector("#stage[aria-busy=false]")
        return self

    def state(self) -> dict[str, Any]:
        """What the page takes for the state of its video."""
        return self.page.evaluate("async () => (await import('/static/state.js')).app.video")

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a point of the video lies in the window."""
        view = self.page.evaluate("async () => (await import('/static/stage.js')).view")
        box = self.page.locator("#stage").bounding_box()
        assert box is not None
        return box["x"] + view["x"] + x * view["scale"], box["y"] + view["y"] + y * view["scale"]

    def click(self, x: float, y: float, *, button: Literal["left", "right"] = "left", shift: bool = False) -> Annotator:
        """Click a point of the video."""
        if shift:
            self.page.keyboard.down("Shift")
        self.page.mouse.click(*self.place(x, y), button=button)
        if shift:
            self.page.keyboard.up("Shift")
        return self

    def drag(self, *points: tuple[float, float], button: Literal["left", "middle", "right"] = "left") -> Annotator:
        """Press at the first point of the video, move along the others, and let go."""
        places = [self.place(*point) for point in points]
        self.page.mouse.move(*places[0])
        self.page.mouse.down(button=button)
        for place in places[1:]:
            self.page.mouse.move(*place, steps=6)
        self.page.mouse.up(button=button)
        return self

    def press(self, *keys: str) -> Annotator:
        """Press keys one after another."""
        for key in keys:
            self.page.keyboard.press(key)
        return self

    def paint(self, *points: tuple[float, float]) -> Annotator:
        """Draw a stroke with a brush whose radius is BRUSH pixels of the video."""
        self.page.evaluate(f"async () => (await import('/static/state.js')).setView({{ brush: {BRUSH} }})")
        return self.press("b").drag(*points).settled()

    def masks(self, frame: int) -> dict[int, NDArray[np.bool_]]:
        """The masks [H, W] that the server has of a frame, by object."""
        state = self.state()
        body = httpx.get(f"{self.url}api/videos/{state['id']}/masks/{frame}").content
        return decode_masks(body, state["height"], state["width"])

    def prompts(self, obj_id: int = 1, frame: int = 0) -> dict[str, Any]:
        """The prompts that the server has of an object on a frame; empty if there are none."""
        state = httpx.get(f"{self.url}api/videos/{self.state()['id']}").json()
        found: dict[str, Any] = state["prompts"].get(str(obj_id), {}).get(str(frame), {})
        return found

    def picture(self) -> NDArray[np.int16]:
        """What is drawn on the canvas, RGB [H, W, 3], without the pointer's marks."""
        self.page.mouse.move(5, 5)
        self.settled()
        drawn = self.page.locator("#stage").evaluate("canvas => canvas.toDataURL()")
        png = base64.b64decode(drawn.partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.int16)

    def color(self, x: float, y: float) -> NDArray[np.int16]:
        """The colour that is seen at a point of the video, RGB [3]: the mean of a few pixels around it."""
        left, top = self.place(x, y)
        box = self.page.locator("#stage").bounding_box()
        assert box is not None
        row, column = round(top - box["y"]), round(left - box["x"])
        return self.picture()[row - 1 : row + 2, column - 1 : column + 2].mean(axis=(0, 1)).astype(np.int16)

    def notice(self, text: str) -> None:
        """Wait for a message and close it."""
        notice = self.page.locator(".notice", has_text=text).first
        expect(notice).to_be_visible(timeout=PATIENCE_MS)
        notice.get_by_role("button", name="Close this message").click()

    def hold(self, pattern: str) -> list[Route]:
        """Leave requests of these addresses without an answer; they come into the list that is returned."""
        held: list[Route] = []

        def keep(route: Route) -> None:
            held.append(route)

        self.page.route(pattern, keep)
        return held

    def stopping(self) -> None:
        """Wait until the server has asked the propagation to end."""
        expect(self.page.locator("#cancel")).to_have_text("Stopping…", timeout=PATIENCE_MS)

    def forgive(self, matches: Callable[[str], Any]) -> None:
        """Forget complaints that were to be expected, such as of a server that was killed."""
        self.troubles = [trouble for trouble in self.troubles if not matches(trouble)]


@contextmanager
def annotator(browser: Browser, url: str, **context: Any) -> Iterator[Annotator]:
    """A page in a context of its own; it must not have complained in the end."""
    with browser.new_context(viewport=context.pop("viewport", SIZE), **context) as window:
        opened = Annotator(page=window.new_page(), url=url)
        yield opened
        assert opened.troubles == []
