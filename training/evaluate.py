"""Score a checkpoint on annotated sequences, from each kind of prompt on the first frame of each object.

    python -m training.evaluate CHECKPOINT --images JPEGImages/480p --annotations Annotations/480p \
        --include ImageSets/val.txt --prompts gm bb 3c 1c --json scores.json --sheets sheets

J and F are those of the DAVIS benchmark (`i2vpp.evaluation.metrics`); first and last frame are not scored.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.checkpoint import inspect_checkpoint
from i2vpp.errors import I2VPPError
from i2vpp.evaluation.protocol import PUBLISHED
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.utils.visualize import contact_sheet, overlay
from training.config import ValidationConfig
from training.dataset.clips import AnnotatedVideo, Source
from training.validation import SequenceScore, Tracked, open_validation, score_tracked, track_sequence

SHEET_FRAMES = 8


def evaluate(
    predictor: I2VPPVideoPredictor, sequences: Source, prompts: Sequence[str], *, max_frames: int, sheets: Path | None
) -> dict[str, list[SequenceScore]]:
    """Score all sequences from each kind of prompt; with `sheets`, draw what was found."""
    scores: dict[str, list[SequenceScore]] = {prompt: [] for prompt in prompts}
    with tqdm(total=len(prompts) * len(sequences), unit="sequence") as bar:
        for prompt in prompts:
            for index in range(len(sequences)):
                video = sequences[index]
                tracked = track_sequence(predictor, video, prompt=prompt, max_frames=max_frames)
                scores[prompt].append(score_tracked(tracked))
                if sheets is not None:
                    sheets.mkdir(parents=True, exist_ok=True)
                    draw(video, tracked).save(sheets / f"{video.name} from {prompt}.png")
                bar.update()
    return scores


def draw(video: AnnotatedVideo, tracked: Tracked) -> Image.Image:
    """Draw a contact sheet of what was found, on frames spread over the sequence."""
    frames = np.linspace(0, tracked.length - 1, min(SHEET_FRAMES, tracked.length)).round().astype(int).tolist()
    ids = list(tracked.found)
    pictures = [overlay(video.image(t), np.stack([tracked.mask(obj, t) for obj in ids]), ids) for t in frames]
    return contact_sheet(pictures, 4, captions=[f"{video.name} {t}" for t in frames], cell_width=360)


def table(scores: dict[str, list[SequenceScore]]) -> str:
    """Write the scores as a Markdown table: a line per sequence, J&F from each prompt, and the means below."""
    prompts = list(scores)
    lines = [f"| sequence | {' | '.join(prompts)} |", "| --- |" + " ---: |" * len(prompts)]
    for row in zip(*scores.values(), strict=True):
        lines.append(f"| {row[0].name} | {' | '.join(f'{100 * score.jf:.1f}' for score in row)} |")
    for name, key in (("J&F", "jf"), ("J", "j"), ("F", "f")):
        means = (100 * float(np.mean([getattr(score, key) for score in scores[prompt]])) for prompt in prompts)
        lines.append(f"| **mean {name}** | {' | '.join(f'{mean:.1f}' for mean in means)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--images", required=True, help="folder of frame folders")
    parser.add_argument("--annotations", help="folder of palette PNGs (default: beside the images)")
    parser.add_argument("--include", help="file with the names of the sequences (default: all)")
    parser.add_argument("--prompts", nargs="+", choices=PUBLISHED, default=["gm"], help="default: gm")
    parser.add_argument("--max-frames", type=int, default=10_000, help="of each sequence (default: all)")
    parser.add_argument("--config", help="model config (default: by the size the checkpoint was trained at)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override of the model config")
    parser.add_argument("--device", help="default: the best there is")
    parser.add_argument("--dtype", help="float32 or bfloat16 (default: bfloat16 on GPUs that have it)")
    parser.add_argument("--json", type=Path, help="write the scores there")
    parser.add_argument("--sheets", type=Path, help="draw a contact sheet of each sequence into this folder")
    options = parser.parse_args(arguments)
    try:
        size = inspect_checkpoint(options.checkpoint).image_size
        overrides = options.set if options.config or size is None else [f"model.image_size={size}", *options.set]
        predictor = build_i2vpp_video_predictor(
            options.config or "i2vpp-infer",
            options.checkpoint,
            options.device,
            hydra_overrides_extra=overrides,
            dtype=options.dtype,
        )
        sequences = open_validation(
            ValidationConfig(images=options.images, annotations=options.annotations, include=options.include)
        )
        assert sequences is not None
        scores = evaluate(predictor, sequences, options.prompts, max_frames=options.max_frames, sheets=options.sheets)
    except I2VPPError as error:
        parser.exit(1, f"error: {error}\n")
    if options.json:
        listed = {prompt: [asdict(score) for score in found] for prompt, found in scores.items()}
        options.json.write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")
    print(table(scores))
    return 0


if __name__ == "__main__":
    sys.exit(main())
