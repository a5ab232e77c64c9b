"""The benchmark of the annotator: that it measures what it says, on a little video."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from annotate_page import chromium
from annotator import HEIGHT, WIDTH
from i2vpp.annotate.storage.store import Annotation
from models import make_predictor
from tools import benchmark_annotator
from tools.benchmarking import annotator as measuring
from tools.benchmarking.annotator import Case, blob, measure, write_annotation

SMALL = Case(width=WIDTH, height=HEIGHT, frames=4, objects=2, repeats=1, tracked=2, seconds=1.0)


def test_the_annotation_has_a_mask_of_each_object_on_each_frame(tmp_path: Path) -> None:
    case = replace(SMALL, objects=5, frames=62)
    write_annotation(tmp_path / "clip.sqlite", case)
    with Annotation(tmp_path / "clip.sqlite", height=HEIGHT, width=WIDTH, frames=62) as store:
        assert [len(store.masks(t)) for t in (0, 61)] == [5, 5]
        assert all(prompts.imported for prompts in store.prompts()[5].values())
    masks = [blob(case, n, 7).decode(HEIGHT, WIDTH) for n in range(5)]
    assert all(20 < mask.sum() < WIDTH * HEIGHT / 4 for mask in masks)
    assert sum(masks).max() == 1, "objects lie beside each other"
    assert not np.array_equal(blob(case, 0, 7).runs, blob(case, 0, 8).runs)


def test_everything_is_measured_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with chromium():
        pass  # skips where there is none
    monkeypatch.setattr(measuring, "SETTLE_SECONDS", 0.2)
    results = measure(SMALL, make_predictor(), tmp_path, exports=True)
    json.dumps(results)
    click, stroke = results["click"], results["stroke"]
    assert [request["path"] for request in click["each"][0]["requests"]] == ["/objects/1/prompts/0", "/masks/0"]
    assert [request["path"] for request in stroke["each"][0]["requests"]] == ["/objects/1/prompts/2", "/masks/2"]
    for one in (*click["each"], *stroke["each"]):
        assert 0 < one["requests"][0]["from"] < one["requests"][0]["to"]
        assert 300 < one["bytes"] < 10_000
        assert one["cpu"] > 0
    assert click["each"][0]["network"] > 0
    assert stroke["milliseconds"] >= stroke["each"][0]["requests"][1]["to"], "the mask is drawn after it has come"
    assert results["propagation"]["frames"] >= 1
    assert set(results["exports"]) == {"davis", "sav"}
    table = benchmark_annotator.table(results, SMALL)
    assert "| stroke with 2 x 4 masks, ms | " in table
    assert table.splitlines()[2].endswith("| 60 |")


def test_what_cannot_be_measured_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert benchmark_annotator.main(["--checkpoint", str(tmp_path / "none.pt")]) == 1
    assert "benchmark_annotator.py: error: " in capsys.readouterr().err
