"""Masks of everything on an image, without prompts: of the masks of a grid of clicks, the good ones, each once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from math import ceil
from os import PathLike
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from i2vpp.data.rle import RunLengths
from i2vpp.errors import ConfigError
from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.images import ImageLike, open_image
from i2vpp.structures import Prompt
from i2vpp.tracking import PREVIOUS_LOGIT_LIMIT
from i2vpp.utils.brief import brief
from i2vpp.utils.notices import warn_user
from i2vpp.utils.regions import remove_small_regions
from i2vpp.utils.result_files import require_coco
from i2vpp.utils.suggest import did_you_mean
from i2vpp.utils.values import whole_number

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")
EDGE = 20.0
"""Pixels from the edge of a crop within which a box is taken for one that the crop cuts off (SAM 2's value)."""

PIXELS_AT_ONCE = 2**25
"""Pixels of masks at the image's size that are computed at a time: 128 MB of logits."""

Floats = NDArray[np.float64]
Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the image; x1 and y1 are the first column and row behind it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FoundMask:
    """A mask that may become a record.

    Args:
        runs: the mask at the image's size.
        box: around it.
        iou: predicted IoU.
        stability: IoU of the mask at a higher and a lower threshold.
        point: x, y of the click that it is the answer to, in pixels of the image.
        crop: part of the image that it was found in.
    """

    runs: RunLengths
    box: Box
    iou: float
    stability: float
    point: tuple[float, float]
    crop: Box


@dataclass(eq=False)
class I2VPPAutomaticMaskGenerator:
    """Finds masks of everything on an image. The parameters are those of SAM 2's generator.

    Args:
        model: a network, or a video or image predictor, whose network and dtype are shared; an image predictor keeps
            the image that it holds.
        points_per_side: clicks along a side of the grid; None with `point_grids`.
        points_per_batch: clicks that are decoded at a time; memory grows with it.
        pred_iou_thresh: masks of a lower predicted IoU are dropped.
        stability_score_thresh: masks of a lower stability are dropped.
        stability_score_offset: by how much the threshold is raised and lowered to measure stability.
        mask_threshold: logit above which a pixel belongs to a mask.
        box_nms_thresh: of two masks whose boxes have a higher IoU, the one of the lower predicted IoU is dropped.
        crop_n_layers: layers of crops that are searched beside the whole image; layer n has (2 ** n) ** 2 crops.
        crop_nms_thresh: of two masks of different crops whose boxes have a higher IoU, that of the larger crop is
            dropped.
        crop_overlap_ratio: how much crops overlap, as a share of the image's shorter side, in the first layer.
        crop_n_points_downscale_factor: layer n has points_per_side / factor ** n clicks along a side.
        point_grids: clicks [N, 2] x, y of each layer, the whole image first, as fractions of the crop's size.
        min_mask_region_area: holes and separate parts of masks below this number of pixels are filled and removed.
        output_mode: `binary_mask`, `uncompressed_rle` or `coco_rle` (needs pycocotools).
        use_m2m: decode every mask once more, starting from itself.
        multimask_output: take three masks of each click instead of one.

    Raises:
        ConfigError: a parameter makes no sense.
        I2VPPError: `coco_rle` without pycocotools.
    """

    model: I2VPP | I2VPPVideoPredictor | I2VPPImagePredictor
    points_per_side: int | None = 32
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    mask_threshold: float = 0.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    point_grids: Sequence[Any] | None = None
    min_mask_region_area: int = 0
    output_mode: str = "binary_mask"
    use_m2m: bool = False
    multimask_output: bool = True
    predictor: I2VPPImagePredictor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.model, (I2VPP, I2VPPVideoPredictor, I2VPPImagePredictor)):
            raise ConfigError(
                "model must be a network (of `build_i2vpp`), a video predictor or an image predictor; "
                f"got {brief(self.model)}"
            )
        if isinstance(self.model, I2VPPImagePredictor):
            self.predictor = copy(self.model)  # another image, but the same network, runner, dtype and thresholds
            self.predictor.reset_predictor()
        else:
            self.predictor = I2VPPImagePredictor(self.model)
        for name, least in (("points_per_batch", 1), ("crop_n_layers", 0), ("crop_n_points_downscale_factor", 1)):
            setattr(self, name, whole_number(name, getattr(self, name), least=least, error=ConfigError))
        if not 0 <= self.crop_overlap_ratio < 1:
            raise ConfigError(f"crop_overlap_ratio must lie in [0, 1); got {brief(self.crop_overlap_ratio)}")
        if self.output_mode not in OUTPUT_MODES:
            raise ConfigError(
                f"unknown output_mode {self.output_mode!r}; {did_you_mean(self.output_mode, OUTPUT_MODES)}"
            )
        self._coco = require_coco() if self.output_mode == "coco_rle" else None
        self._grids = self._make_grids()

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | PathLike[str], *, revision: str | None = None, device: Any = None, **options: Any
    ) -> I2VPPAutomaticMaskGenerator:
        """Build a generator with weights from a file, a folder or the Hugging Face Hub.

        Args:
            path_or_hub_id: see `I2VPPVideoPredictor.from_pretrained`.
            revision: of the repository.
            device: see `build_i2vpp_image_predictor`.
            options: parameters of the generator.
        """
        return cls(I2VPPImagePredictor.from_pretrained(path_or_hub_id, revision=revision, device=device), **options)

    def generate(self, image: ImageLike, *, covered: NDArray[np.bool_] | None = None) -> list[dict[str, Any]]:
        """Find the masks on an image.

        Args:
            image: see `open_image`.
            covered: bool [H, W]: pixels that are not clicked, because it is known what they show; default: none.

        Returns:
            A record of each mask, in descending order of predicted IoU where there are no crops and no
            `min_mask_region_area`: `segmentation` (bool [H, W], or run lengths as `output_mode` says), `area` in
            pixels, `bbox` [x, y, width, height], `predicted_iou`, `point_coords` [[x, y]] of the click,
            `stability_score`, `crop_box` [x, y, width, height].

        Raises:
            VideoError: the image cannot be read.
            ConfigError: `covered` has another size than the image.
        """
        pixels = open_image(image)
        height, width = pixels.shape[:2]
        if covered is not None and covered.shape != (height, width):
            raise ConfigError(f"covered must be [H, W] = {[height, width]}; got {list(covered.shape)}")
        found: list[FoundMask] = []
        self._highest_iou = 0.0
        try:
            for layer, crop in crops(height, width, layers=self.crop_n_layers, overlap=self.crop_overlap_ratio):
                clicks = self._grids[layer] if covered is None else uncovered(self._grids[layer], crop, covered)
                if len(clicks):
                    found += self._search(pixels, crop, clicks)
        finally:
            self.predictor.reset_predictor()
        if self.crop_n_layers:  # smaller crops show more
            found = keep_one_each(found, [1 / _area(mask.crop) for mask in found], self.crop_nms_thresh)
        if self.min_mask_region_area > 0:
            cleaned = [self._clean(mask) for mask in found]
            unchanged = [float(new is old) for new, old in zip(cleaned, found, strict=True)]
            found = keep_one_each(cleaned, unchanged, max(self.box_nms_thresh, self.crop_nms_thresh))
        if not found and covered is None:
            warn_user(
                f"no mask passed the thresholds: the highest predicted IoU is {self._highest_iou:.2f}, with "
                f"pred_iou_thresh={self.pred_iou_thresh:g} and stability_score_thresh={self.stability_score_thresh:g}; "
                "a checkpoint of little training needs lower ones"
            )
        return [self._record(mask) for mask in found]

    def _make_grids(self) -> list[Floats]:
        """Return the clicks [N, 2] of each layer."""
        layers = self.crop_n_layers + 1
        if (self.points_per_side is None) == (self.point_grids is None):
            raise ConfigError("pass either points_per_side or point_grids: points_per_side=None with point_grids")
        if self.point_grids is None:
            side = whole_number("points_per_side", self.points_per_side, least=1, error=ConfigError)
            return [point_grid(max(1, side // self.crop_n_points_downscale_factor**layer)) for layer in range(layers)]
        grids = [np.asarray(grid, np.float64) for grid in self.point_grids]
        fits = all(grid.ndim == 2 and grid.shape[1] == 2 and ((grid >= 0) & (grid <= 1)).all() for grid in grids)
        if len(grids) != layers or not fits:
            raise ConfigError(f"point_grids must be {layers} arrays [N, 2], one for each layer, of numbers in [0, 1]")
        return grids

    @torch.no_grad()
    def _search(self, pixels: NDArray[np.uint8], crop: Box, grid: Floats) -> list[FoundMask]:
        """Find masks in a crop, each once."""
        x0, y0, x1, y1 = crop
        self.predictor.set_image(pixels[y0:y1, x0:x1])
        found: list[FoundMask] = []
        for first in range(0, len(grid), self.points_per_batch):
            found += self._answer(grid[first : first + self.points_per_batch], crop, pixels.shape[:2])
        return keep_one_each(found, [mask.iou for mask in found], self.box_nms_thresh)

    def _answer(self, clicks: Floats, crop: Box, size: tuple[int, ...]) -> Iterator[FoundMask]:
        """Yield the good masks of some clicks on the crop that is set."""
        coords, labels = self._as_prompt(clicks)
        prediction = self.predictor.decode_prompts(
            Prompt(coords=coords, labels=labels), multimask_output=self.multimask_output
        )
        logits, ious = prediction.candidates.flatten(0, 1)[:, None], prediction.candidate_ious.flatten()
        of_click = torch.arange(len(clicks)).repeat_interleave(prediction.candidates.shape[1])
        if self.use_m2m:
            logits, ious = self._refine(logits, coords[of_click.to(coords.device)])
        self._highest_iou = max(self._highest_iou, ious.max().item())
        good = (ious > self.pred_iou_thresh).nonzero()[:, 0]
        x0, y0, x1, y1 = crop
        at_once = max(1, PIXELS_AT_ONCE // _area(crop))
        for chosen in good.split(at_once):
            masks = F.interpolate(logits[chosen], (y1 - y0, x1 - x0), mode="bilinear", align_corners=False)[:, 0]
            stability = self._stability(masks)
            drawn = (masks > self.mask_threshold).cpu().numpy()
            for i, mask, score, stable in zip(
                chosen.tolist(), drawn, ious[chosen].tolist(), stability.tolist(), strict=True
            ):
                if stable < self.stability_score_thresh or not mask.any():
                    continue
                whole = np.zeros(size, bool)
                whole[y0:y1, x0:x1] = mask
                box = box_around(whole)
                if _is_cut_off(box, crop, size):
                    continue
                x, y = clicks[of_click[i]].tolist()
                point = (x0 + x * (x1 - x0), y0 + y * (y1 - y0))
                runs = RunLengths.encode(whole)
                yield FoundMask(runs=runs, box=box, iou=score, stability=stable, point=point, crop=crop)

    def _as_prompt(self, clicks: Floats) -> tuple[Tensor, Tensor]:
        """Return clicks [N, 2] as coordinates [N, 1, 2] of the network's input and labels [N, 1]."""
        coords = torch.from_numpy(clicks.astype(np.float32))[:, None] * self.predictor.model.image_size
        return coords.to(self.predictor.device), torch.ones(
            len(clicks), 1, dtype=torch.int32, device=self.predictor.device
        )

    def _refine(self, logits: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Decode masks [N, 1, s, s] once more with their clicks [N, 1, 2]; return masks and IoUs [N]."""
        size = self.points_per_batch
        refined = []
        for start, clicks in zip(logits.split(size), coords.split(size), strict=True):
            labels = torch.ones(clicks.shape[:2], dtype=torch.int32, device=clicks.device)
            start = start.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)  # noqa: PLW2901 - as in `predict`
            prompt = Prompt(coords=clicks, labels=labels, mask=start)
            refined.append(self.predictor.decode_prompts(prompt, multimask_output=False))
        return torch.cat([x.candidates for x in refined]), torch.cat([x.candidate_ious[:, 0] for x in refined])

    def _stability(self, logits: Tensor) -> Tensor:
        """Return the IoU of each mask [N, H, W] at a higher and at a lower threshold; 0 where there is no mask."""
        inner, outer = (
            (logits > self.mask_threshold + offset).flatten(1).sum(1)
            for offset in (self.stability_score_offset, -self.stability_score_offset)
        )
        return inner / outer.clamp(min=1)

    def _clean(self, mask: FoundMask) -> FoundMask:
        """Return a mask without small holes and parts; the same one where there are none."""
        drawn = mask.runs.decode()
        cleaned = remove_small_regions(drawn, self.min_mask_region_area)
        if cleaned is drawn:
            return mask
        return replace(mask, runs=RunLengths.encode(cleaned), box=box_around(cleaned))

    def _record(self, mask: FoundMask) -> dict[str, Any]:
        segmentation: Any
        if self.output_mode == "binary_mask":
            segmentation = mask.runs.decode()
        else:
            segmentation = {"size": list(mask.runs.size), "counts": mask.runs.lengths.tolist()}
        if self._coco is not None:
            segmentation = self._coco.frPyObjects(segmentation, *mask.runs.size)
            segmentation["counts"] = segmentation["counts"].decode("ascii")  # JSON has no bytes
        return {
            "segmentation": segmentation,
            "area": mask.runs.area,
            "bbox": _as_xywh(mask.box),
            "predicted_iou": mask.iou,
            "point_coords": [list(mask.point)],
            "stability_score": mask.stability,
            "crop_box": _as_xywh(mask.crop),
        }


def point_grid(side: int) -> Floats:
    """Return the centres [side * side, 2] x, y of the cells of a grid over a square of side 1, row by row."""
    centres = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)


def uncovered(grid: Floats, crop: Box, covered: NDArray[np.bool_]) -> Floats:
    """Return the clicks of a grid over a crop that lie on pixels which are not covered.

    Args:
        grid: clicks [N, 2] x, y as fractions of the crop's size.
        crop: part of the image.
        covered: bool [H, W] of the image.

    Returns:
        The clicks [M, 2], in the same order.
    """
    x0, y0, x1, y1 = crop
    part = covered[y0:y1, x0:x1]
    columns, rows = (grid * (x1 - x0, y1 - y0)).astype(np.int64).clip(max=(x1 - x0 - 1, y1 - y0 - 1)).T
    left: Floats = grid[~part[rows, columns]]
    return left


def crops(height: int, width: int, *, layers: int, overlap: float) -> Iterator[tuple[int, Box]]:
    """Yield the parts of an image that are searched, with their layer: the whole image (layer 0), then the crops.

    Args:
        height: of the image in pixels.
        width: of the image in pixels.
        layers: of crops; layer n has 2 ** n crops along a side.
        overlap: of neighbours in layer 1, as a share of the shorter side; half of it in layer 2, and so on.
    """
    yield 0, (0, 0, width, height)
    for layer in range(1, layers + 1):
        count = 2**layer
        shared = int(overlap * min(height, width) * 2 / count)
        columns, rows = (ceil((shared * (count - 1) + side) / count) for side in (width, height))
        for j in range(count):
            for i in range(count):
                x, y = i * (columns - shared), j * (rows - shared)
                if x < width and y < height:
                    yield layer, (x, y, min(x + columns, width), min(y + rows, height))


def box_around(mask: NDArray[np.bool_]) -> Box:
    """Return the box around the set pixels of a mask [H, W], which has some."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def keep_one_each(found: Sequence[FoundMask], scores: Sequence[float], threshold: float) -> list[FoundMask]:
    """Drop every mask whose box overlaps that of a better one, and return the others, best first."""
    boxes = np.array([mask.box for mask in found], np.float64).reshape(-1, 4)
    return [found[i] for i in non_maximum_suppression(boxes, np.asarray(scores, np.float64), threshold)]


def non_maximum_suppression(boxes: Floats, scores: Floats, threshold: float) -> list[int]:
    """Choose boxes in descending order of score, each unless its IoU with one that is chosen is above a threshold.

    Args:
        boxes: [N, 4] x0, y0, x1, y1.
        scores: [N]; of equal ones the first wins.
        threshold: highest IoU of two boxes that are both chosen.

    Returns:
        Indices of the chosen boxes, best first.
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    order = np.argsort(-scores, kind="stable")
    chosen: list[int] = []
    while len(order):
        best, order = int(order[0]), order[1:]
        chosen.append(best)
        corner, end = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
        shared = (end - corner).clip(0).prod(axis=1)
        order = order[shared <= threshold * (areas[best] + areas[order] - shared)]
    return chosen


def _is_cut_off(box: Box, crop: Box, size: tuple[int, ...]) -> bool:
    """Whether a box ends at an edge of a crop that is no edge of the image: its object goes on behind it."""
    image = (0, 0, size[1], size[0])
    return any(abs(b - c) < EDGE < abs(b - i) for b, c, i in zip(box, crop, image, strict=True))


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _as_xywh(box: Box) -> list[int]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]
