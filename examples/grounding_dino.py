"""Track what a text names through a video: Grounding DINO finds boxes, i2vpp follows them.

    pip install transformers
    python examples/grounding_dino.py video.mp4 "a rabbit. a stone." -o outputs/named

Grounding DINO is not part of i2vpp and not installed with it; transformers fetches its weights, 700 MB, on the first
call. Any other detector takes its place by a function with the same signature as `find`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from i2vpp import build_i2vpp_video_predictor, track_detections
from i2vpp.utils.visualize import overlay


def grounding_dino(
    text: str, model_name: str = "IDEA-Research/grounding-dino-tiny"
) -> Callable[[NDArray[np.uint8]], tuple[Any, Any, Any]]:
    """Return a detector: a function from a frame, uint8 RGB [H, W, 3], to boxes, labels and scores.

    Args:
        text: what to find, in lower case and with a full stop after each name: "a rabbit. a stone."
        model_name: name of a Grounding DINO checkpoint on the Hugging Face Hub.
    """
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor  # noqa: PLC0415 - not a dependency

    processor = AutoProcessor.from_pretrained(model_name)
    model = AutoModelForZeroShotObjectDetection.from_pretrained(model_name).eval()

    @torch.no_grad()
    def find(frame: NDArray[np.uint8]) -> tuple[Any, Any, Any]:
        inputs = processor(images=Image.fromarray(frame), text=text, return_tensors="pt")
        outputs = model(**inputs)
        found = processor.post_process_grounded_object_detection(
            outputs, inputs["input_ids"], target_sizes=[frame.shape[:2]]
        )[0]
        # Newer versions of transformers have the texts under "text_labels", and numbers under "labels".
        return found["boxes"], found["text_labels"] if "text_labels" in found else found["labels"], found["scores"]

    return find


def main() -> None:
    """Track, write a picture of every tenth frame, and print what each object is called."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("video")
    parser.add_argument("text", help='such as "a rabbit. a stone."')
    parser.add_argument("-o", "--output", type=Path, default=Path("outputs/named"))
    parser.add_argument("--checkpoint", default="i2vpp-demo")
    parser.add_argument("--every", type=int, default=25, help="call the detector on every n-th frame")
    arguments = parser.parse_args()

    detector = grounding_dino(arguments.text)
    predictor = build_i2vpp_video_predictor(ckpt_path=arguments.checkpoint)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with predictor.init_state(arguments.video) as state:
        for result in track_detections(predictor, state, detector, every=arguments.every, least_score=0.35):
            if result.frame_idx % 10 == 0:
                masks = (result.masks[:, 0] > 0).cpu().numpy()
                picture = overlay(state.frame(result.frame_idx), masks, result.obj_ids, labels=True)
                Image.fromarray(picture).save(arguments.output / f"{result.frame_idx:05d}.jpg")
        for obj_id, label in state.labels.items():
            print(f"object {obj_id}: {label}")


if __name__ == "__main__":
    main()
