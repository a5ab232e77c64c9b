"""Classes of objects, and files in and out, on the page in headless Chromium."""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from annotate_page import PATIENCE_MS, Annotator, annotator, chromium, expect
from annotator import make_workspace, serving, write_frames
from i2vpp.annotate.exchange.formats.registry import FORMATS
from i2vpp.annotate.storage.labels import LabelChoice
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from models import encode_once, make_predictor

DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (sign) => sign.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name));
  document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as opened:
        yield opened


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor())


@pytest.fixture
def page(browser: Any, tmp_path: Path, predictor: I2VPPVideoPredictor) -> Iterator[Annotator]:
    clip = write_frames(tmp_path / "clip", 4)
    labels = [LabelChoice(name="kettle", color="#20a040")]
    with serving(make_workspace(clip, tmp_path / "out", lambda: predictor, labels=labels)) as server:
        with annotator(browser, server.url) as opened:
            yield opened.open().frame(0).settled()


def test_an_object_gets_a_class_that_is_given_or_typed(page: Annotator) -> None:
    page.press("n").settled()
    choice = page.page.get_by_label("Class of Object 1")
    choice.select_option(label="kettle")
    page.settled()
    assert page.state()["objects"][0]["label"] == 1
    tag = page.page.locator("#timeline-names .label-tag")
    expect(tag).to_have_text("kettle")
    choice.select_option(label="New class…")
    page.page.get_by_label("Name of a new class").fill("<b>cup")
    page.press("Enter").settled()
    expect(page.page.locator("#labels-dialog")).to_be_hidden()
    expect(tag).to_have_text("<b>cup")
    assert [label["name"] for label in page.state()["labels"]] == ["kettle", "<b>cup"]
    page.press("z").settled()
    expect(tag).to_have_text("kettle")
    expect(choice.locator("option:checked")).to_have_text("kettle")

    page.page.get_by_role("button", name="Classes").click()
    name = page.page.get_by_label("Name of class kettle")
    name.fill("pot")
    name.press("Tab")
    expect(tag).to_have_text("pot")
    page.page.get_by_role("button", name="Delete class pot").click()
    page.settled()
    expect(tag).to_be_hidden()
    assert page.state()["labels"] == []


def test_an_export_is_downloaded_and_comes_back_by_drop(page: Annotator, tmp_path: Path) -> None:
    page.paint((16, 24), (40, 24))
    wanted = page.masks(0)[1]
    page.page.get_by_role("button", name="Export").click()
    form = page.page.locator("#export-form")
    expect(form.locator("input[name=kind]")).to_have_count(len(FORMATS))
    form.locator("input[value=coco]").check()
    with page.page.expect_download(timeout=PATIENCE_MS) as coming:
        form.get_by_role("button", name="Export").click()
    assert coming.value.suggested_filename == "clip-coco.zip"
    path = tmp_path / "download.zip"
    coming.value.save_as(path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["clip-coco/annotations.json", "clip-coco/objects.json"]
    page.notice("Exported to “exports/")

    page.page.evaluate(DROP, ["mine.zip", base64.b64encode(path.read_bytes()).decode()])
    imports = page.page.locator("#import-form")
    expect(imports.get_by_label("What can be imported")).to_have_value(
        "uploads/mine/annotations.json", timeout=PATIENCE_MS
    )
    expect(imports.locator("option")).to_have_count(2)
    imports.get_by_role("button", name="Import").click()
    page.notice("Imported 1 object with 1 mask.")
    page.settled()
    assert np.array_equal(page.masks(0)[2], wanted)
    page.page.evaluate(DROP, ["notes.txt", "eA=="])
    page.notice("“notes.txt” was not taken: 'notes.txt' is neither masks nor a video")
    page.forgive(lambda trouble: "415" in trouble)
