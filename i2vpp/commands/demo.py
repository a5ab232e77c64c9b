"""The bundled clip, tracked: what `i2vpp demo` shows."""

from __future__ import annotations

import warnings
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np

from i2vpp.build_i2vpp import choose_device
from i2vpp.commands.track import Span, Summary, track
from i2vpp.model_choice import ModelChoice, build_predictor
from i2vpp.prompts.checks import ObjectPrompt
from i2vpp.utils.result_files import MaskWriter, write_png
from i2vpp.utils.visualize import contact_sheet, draw_prompt, overlay
from i2vpp.utils.writers import OutputChoice

CLIP = "bunny.mp4"
UNTRAINED_CONFIG = "i2vpp-256"  # untrained weights find nothing at any size, so the fastest one is taken
CPU_CONFIG = ("model.image_size=384",)  # on two cores less than a minute, and nearly as good as the checkpoint's 512
SHEET_FRAMES = 6
SHEET_COLUMNS = 3

PROMPTS = (
    # the rabbit in its burrow; the click shows how to say what is not part of an object
    ObjectPrompt(obj_id=1, box=(118, 127, 262, 280), points=((240, 165),), labels=(0,)),
    # the boulder in front, not the one behind; clicks alone leave the shipped checkpoint undecided
    ObjectPrompt(obj_id=2, box=(30, 186, 121, 268), points=((72, 228), (88, 165)), labels=(1, 0)),
)


def run_demo(model: ModelChoice, folder: Path, *, num_frames: int | None = None, quiet: bool = False) -> Summary:
    """Track the demo's objects through the first `num_frames` frames of the bundled clip.

    Writes masks, overlay and scores into the folder, and `overlay.png`, which shows the prompts and six frames.

    Args:
        model: the network.
        folder: folder of the results.
        num_frames: None for all frames of the clip.
        quiet: whether to show no progress bar.

    Returns:
        What was written.
    """
    if model.checkpoint is None and model.config is None:
        model = replace(model, config=UNTRAINED_CONFIG)
    elif model.config is None and choose_device(model.device).type == "cpu":
        model = replace(model, overrides=(*CPU_CONFIG, *model.overrides))
    span = Span(start_frame=0, max_frames=None if num_frames is None else num_frames - 1)
    with as_file(files("i2vpp") / "assets" / CLIP) as clip:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*was trained at image_size")  # CPU_CONFIG is smaller on purpose
            predictor = build_predictor(model)
        with predictor.init_state(str(clip)) as state:
            summary = track(predictor, state, PROMPTS, folder, choice=OutputChoice(), span=span, quiet=quiet)
            if not summary.frames:
                return summary
            sheet = folder / "overlay.png"
            _draw_sheet(state, folder / "masks", summary, sheet)
    return replace(summary, paths=[*summary.paths, sheet])


def _draw_sheet(state: Any, masks: Path, summary: Summary, path: Path) -> None:
    spread = np.linspace(0, len(summary.frames) - 1, min(SHEET_FRAMES, len(summary.frames)))
    chosen = [summary.frames[round(position)] for position in spread]
    reader = MaskWriter(masks)
    pictures = [overlay(state.frame(i), reader.read(i), summary.obj_ids, labels=True) for i in chosen]
    for prompt in PROMPTS:
        if prompt.frame_idx == chosen[0]:
            pictures[0] = draw_prompt(pictures[0], prompt.points, prompt.labels, prompt.box)
    captions = [f"frame {i}" for i in chosen]
    captions[0] += ", prompts"
    write_png(path, contact_sheet(pictures, SHEET_COLUMNS, captions=captions))
