"""The page by the rules of axe-core (npm), in both themes, on a phone and on a wide screen."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from annotate_page import annotator, chromium
from annotator import make_workspace, serving, write_frames
from models import encode_once, make_predictor

AXE = "axe-core@4.14.1"
SECONDS = 120.0
FOUND = """async () => (await axe.run(document, { resultTypes: ['violations'] })).violations.map(({ id, nodes }) =>
  `${id}: ${nodes.map(({ target, failureSummary }) => target + ' ' + failureSummary).join('; ')}`)"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core."""
    if shutil.which("npm") is None:
        pytest.skip("needs npm, which brings axe-core")
    folder = tmp_path_factory.mktemp("axe")
    try:
        subprocess.run(["npm", "pack", AXE], cwd=folder, check=True, capture_output=True, timeout=SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"npm could not bring {AXE}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("videos")
    predictor = encode_once(make_predictor())
    write_frames(folder / "clips" / "disc", 20)
    write_frames(folder / "clips" / "other", 3)
    with serving(make_workspace(folder / "clips", folder / "out", lambda: predictor)) as server:
        yield server.url


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_no_rule_is_broken(axe: str, url: str, scheme: Any, width: int) -> None:
    with (
        chromium() as browser,
        annotator(browser, url, viewport={"width": width, "height": 844}, color_scheme=scheme) as page,
    ):
        page.open("disc").frame(0).settled()
        page.paint((10, 10), (20, 10))
        page.page.locator("#range > summary").click()
        page.page.evaluate(axe)
        notify = "async () => (await import('/static/notices.js')).notify('error', 'Export failed: the disk is full.')"
        page.page.evaluate(notify)
        assert page.page.evaluate(FOUND) == []
        page.press("Shift+ArrowUp", "Shift+D")
        for part in ("#time-window", "#display"):
            page.page.locator(part).wait_for()
        assert page.page.evaluate(FOUND) == []
        page.press("Escape", "v")
        page.page.locator("#library").evaluate(
            "list => Promise.all(list.getAnimations().map(({ finished }) => finished))"
        )
        assert page.page.evaluate(FOUND) == []
        page.press("Escape", "Escape")
        for opener, dialog in (("#show-export", "export"), ("#show-import", "import"), ("#show-help", "help")):
            page.page.locator(opener).click()
            page.page.locator(f"#{dialog}-dialog[open]").wait_for()
            assert page.page.evaluate(FOUND) == []
            page.press("Escape")
