"""`--everything` of `i2vpp segment` and `i2vpp track`: masks that are found without prompts."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from i2vpp.utils.parser import integer

if TYPE_CHECKING:
    from i2vpp.automatic_mask_generator import I2VPPAutomaticMaskGenerator
    from i2vpp.discovery import ObjectDiscovery
    from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
    from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor


DEFAULTS = {
    "points_per_side": 32,
    "iou_threshold": 0.8,
    "stability_threshold": 0.95,
    "discover": 25,
    "max_objects": 50,
}
"""Values of the options that have an effect with `--everything` only; `i2vpp segment` has the first three."""


@dataclass(frozen=True, kw_only=True)
class Everything:
    """How everything is tracked; see `track_everything`.

    Args:
        points_per_side: clicks along a side of the grid.
        iou_threshold: least predicted IoU.
        stability_threshold: least stability.
        discover: every so many frames, what no object covers is searched; 0 searches the first frame only.
        max_objects: most objects at a time.
        highest_id: highest object id that the outputs can hold; None for any.
    """

    points_per_side: int
    iou_threshold: float
    stability_threshold: float
    discover: int
    max_objects: int
    highest_id: int | None = None

    def discovery(self, predictor: Any) -> ObjectDiscovery:
        """Build what finds the objects of a session.

        Args:
            predictor: predictor that the session belongs to.
        """
        from i2vpp.discovery import EverythingSearch, ObjectDiscovery  # noqa: PLC0415 - PyTorch takes seconds to import

        return ObjectDiscovery(
            predictor=predictor,
            search=EverythingSearch(generator=build_generator(predictor, self)),
            every=self.discover,
            max_objects=self.max_objects,
            highest_id=self.highest_id,
        )


def build_generator(
    predictor: I2VPPVideoPredictor | I2VPPImagePredictor, options: Any, **more: Any
) -> I2VPPAutomaticMaskGenerator:
    """Build the generator that the options of `add_grid_options` choose.

    Args:
        predictor: video or image predictor.
        options: the parsed options, or an `Everything`.
        more: further parameters of the generator.
    """
    from i2vpp.automatic_mask_generator import I2VPPAutomaticMaskGenerator  # noqa: PLC0415 - see `Everything.discovery`

    return I2VPPAutomaticMaskGenerator(
        predictor,
        points_per_side=options.points_per_side,
        pred_iou_thresh=options.iou_threshold,
        stability_score_thresh=options.stability_threshold,
        **more,
    )


def add_grid_options(group: Any) -> None:
    """Add the options of the mask generator to a group of a parser."""
    group.add_argument("--points-per-side", metavar="N", type=integer(1), default=DEFAULTS["points_per_side"],
                       help="clicks along a side of the grid (%(default)s)")  # fmt: skip
    group.add_argument("--iou-threshold", metavar="X", type=float, default=DEFAULTS["iou_threshold"],
                       help="least predicted IoU (%(default)s); i2vpp-demo needs about 0.5")  # fmt: skip
    group.add_argument("--stability-threshold", metavar="X", type=float, default=DEFAULTS["stability_threshold"],
                       help="least stability (%(default)s); i2vpp-demo needs about 0.5")  # fmt: skip


def add_track_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `i2vpp track --everything` but the switch itself to a parser."""
    found = parser.add_argument_group("with --everything")
    found.add_argument("--discover", metavar="N", type=integer(0), default=DEFAULTS["discover"],
                       help="look for new objects every N frames where no object is; 0: on the first frame only "
                            "(%(default)s)")  # fmt: skip
    found.add_argument("--max-objects", metavar="N", type=integer(1), default=DEFAULTS["max_objects"],
                       help="most objects at a time (%(default)s)")  # fmt: skip
    add_grid_options(found)


def without_effect(arguments: argparse.Namespace) -> str | None:
    """Return what is wrong where an option is given that needs `--everything`, which is not; None where nothing is."""
    changed = [name for name, value in DEFAULTS.items() if getattr(arguments, name, value) != value]
    if arguments.everything or not changed:
        return None
    return f"--{changed[0].replace('_', '-')} has an effect with --everything only"


def chosen(arguments: argparse.Namespace, *, highest_id: int | None) -> Everything | None:
    """Return what the options of `i2vpp track` choose; None without `--everything`.

    Args:
        arguments: the parsed options.
        highest_id: highest object id that the outputs can hold; None for any.
    """
    if not arguments.everything:
        return None
    return Everything(
        points_per_side=arguments.points_per_side,
        iou_threshold=arguments.iou_threshold,
        stability_threshold=arguments.stability_threshold,
        discover=arguments.discover,
        max_objects=arguments.max_objects,
        highest_id=highest_id,
    )
