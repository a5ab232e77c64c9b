"""SAM 2's image predictor methods over the SAM-I2V++ network: a still image is a clip of one frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from i2vpp.errors import ConfigError, PromptError, SessionError, VideoError
from i2vpp.execution.runner import Runner
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.image_result import ImageResult
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.modeling.inference import precision
from i2vpp.prompts.images import parse_prompts
from i2vpp.session.frames import FrameStore
from i2vpp.session.images import ImageLike, open_image
from i2vpp.session.state import Clicks
from i2vpp.session.video import open_source
from i2vpp.structures import Conditioned, MaskPrediction, Prompt
from i2vpp.tracking import PREVIOUS_LOGIT_LIMIT
from i2vpp.utils.brief import brief
from i2vpp.utils.regions import small_regions

OBJECTS_PER_BATCH = 64
"""So many objects are decoded at a time, which bounds the memory that many boxes need."""

CLEAR_LOGIT = 10.0
"""Distance from the threshold that pixels get where a hole is filled or a small part is removed (SAM 2's value)."""

Masks: TypeAlias = "NDArray[np.float32]"


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedImage:
    """An image that masks can be asked of.

    Args:
        conditioned: its features, B = 1, as of a frame without memory.
        height: of the image in pixels.
        width: of the image in pixels.
    """

    conditioned: Conditioned
    height: int
    width: int


class I2VPPImagePredictor:
    """Segments prompted objects in images; made by `build_i2vpp_image_predictor`, or from a network or video predictor.

    Prompts and masks are those of the first frame of a video. One predictor holds one image, or one batch of images:
    threads need a predictor each, which may share the network.

    Args:
        model: the network, in eval mode on its device; or a video predictor, whose network and dtype are then shared.
        mask_threshold: logit above which a pixel belongs to the mask.
        max_hole_area: holes of at most so many low-resolution pixels are filled; 0 fills none.
        max_sprinkle_area: separate parts of at most so many low-resolution pixels are removed; 0 removes none.
        dtype: data type of the image encoder's arithmetic (float32, bfloat16 or float16); None for that of the video
            predictor, or float32. Autocast is handled here.
        runner: how the network is run: operation by operation, or `CompiledRunner`.

    Raises:
        ConfigError: `model` is neither a network nor a video predictor.
    """

    def __init__(
        self,
        model: I2VPP | I2VPPVideoPredictor,
        mask_threshold: float = 0.0,
        max_hole_area: float = 0.0,
        max_sprinkle_area: float = 0.0,
        *,
        dtype: torch.dtype | None = None,
        runner: Callable[[I2VPP], Runner] = Runner,
    ) -> None:
        if isinstance(model, I2VPPVideoPredictor):
            dtype = dtype or model.dtype
            model = model.model
        if not isinstance(model, I2VPP):
            raise ConfigError(f"model must be a network (of `build_i2vpp`) or a video predictor; got {brief(model)}")
        self.model = model
        self.mask_threshold = mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area
        self._runner = runner(model)
        self._dtype = dtype or torch.float32
        self._images: list[EncodedImage] = []
        self._is_batch = False

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | PathLike[str], *, revision: str | None = None, **options: Any
    ) -> I2VPPImagePredictor:
        """Build a predictor with weights from a file, a folder or the Hugging Face Hub.

        Args:
            path_or_hub_id: see `I2VPPVideoPredictor.from_pretrained`.
            revision: of the repository.
            options: arguments of `build_i2vpp_image_predictor`, such as `device`.

        Raises:
            I2VPPError: as of `build_i2vpp_image_predictor`; CheckpointError also where nothing can be fetched.
        """
        from i2vpp.build_i2vpp import build_i2vpp_image_predictor  # noqa: PLC0415 - which imports this module
        from i2vpp.weights.hub import find_pretrained  # noqa: PLC0415 - needed here only

        return build_i2vpp_image_predictor(ckpt_path=find_pretrained(path_or_hub_id, revision), **options)

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the image encoder's arithmetic."""
        return self._dtype

    # Images

    def set_image(self, image: ImageLike) -> None:
        """Encode an image, of which masks can be asked then; it replaces an earlier one.

        Args:
            image: see `open_image`: path, URL, bytes, PIL image, array or tensor.

        Raises:
            VideoError: it cannot be read; no image is set then.
        """
        self.reset_predictor()
        self._images = [self._encode(open_image(image))]

    def set_image_batch(self, image_list: Sequence[ImageLike]) -> None:
        """Encode several images of any sizes for `predict_batch`; they replace earlier ones.

        They are encoded one after the other: the results are those of `set_image`, and so is the memory needed.

        Args:
            image_list: images, see `open_image`.

        Raises:
            VideoError: it is no list of images, or one cannot be read; no image is set then.
        """
        self.reset_predictor()
        if not isinstance(image_list, (list, tuple)) or not image_list:
            raise VideoError("image_list must be a list of at least one image")
        self._images = [self._encode(open_image(image)) for image in image_list]
        self._is_batch = True

    def get_image_embedding(self) -> Tensor:
        """Return the features [B, 256, h, w] of the image or images, with h = w = image_size / 16.

        Raises:
            SessionError: no image is set.
        """
        return torch.cat([image.conditioned.embedding for image in self._encoded()])

    def reset_predictor(self) -> None:
        """Let go of the image or images."""
        self._images = []
        self._is_batch = False

    # Masks

    def predict(
        self,
        point_coords: Any = None,
        point_labels: Any = None,
        box: Any = None,
        mask_input: Any = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> ImageResult:
        """Predict the masks of one object, or of several at once.

        Args:
            point_coords: clicks [P, 2] x, y in pixels of the image, or [B, P, 2] for B objects. Points and boxes may
                leave the image by up to 2 pixels.
            point_labels: [P] or [B, P], 1 for positive, 0 for negative clicks; -1 is padding.
            box: x0, y0, x1, y1 in pixels of the image, or [B, 4].
            mask_input: low-resolution logits [1, s, s] or [B, 1, s, s] of an earlier prediction to start from, with
                s = image_size / 4.
            multimask_output: three masks for each object, best for a single click; False: one, best for a box or
                several clicks. The video predictor takes the best of three for a single click, else the one.
            return_logits: return the masks as logits.
            normalize_coords: False if points and box are already divided by the image's width and height.

        Returns:
            Masks [C, H, W] at the image's size, float32, 0 and 1 (or logits); their predicted IoUs [C]; their
            low-resolution logits [C, s, s], between -32 and 32. C is 3 or 1; for several objects [B, C, ...]. The tuple
            has `plot`, `save` and `best`, too.

        Raises:
            SessionError: no image is set, or a batch of them is.
            PromptError: the prompt makes no sense.
        """
        if self._is_batch:
            raise SessionError("A batch of images is set: use predict_batch, or set_image for a single image.")
        prompts = (point_coords, point_labels, box, mask_input)
        return self._predict(
            self._encoded()[0], prompts, multimask_output, return_logits=return_logits, normalize=normalize_coords
        )

    def predict_batch(
        self,
        point_coords_batch: Sequence[Any] | None = None,
        point_labels_batch: Sequence[Any] | None = None,
        box_batch: Sequence[Any] | None = None,
        mask_input_batch: Sequence[Any] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[list[Masks], list[Masks], list[Masks]]:
        """Predict masks on each image of a batch; see `predict`.

        Args:
            point_coords_batch: `point_coords` of each image, each may be None.
            point_labels_batch: `point_labels` of each image.
            box_batch: `box` of each image.
            mask_input_batch: `mask_input` of each image.
            multimask_output: as of `predict`, for all images.
            return_logits: as of `predict`, for all images.
            normalize_coords: as of `predict`, for all images.

        Returns:
            Lists of the masks, the scores and the low-resolution logits of each image.

        Raises:
            SessionError: no batch of images is set.
            PromptError: a prompt makes no sense, or a list has not one entry for each image.
        """
        images = self._encoded()
        if not self._is_batch:
            raise SessionError("A single image is set: use predict, or set_image_batch for several images.")
        batches = {
            "point_coords_batch": point_coords_batch,
            "point_labels_batch": point_labels_batch,
            "box_batch": box_batch,
            "mask_input_batch": mask_input_batch,
        }
        for name, batch in batches.items():
            if batch is not None and len(batch) != len(images):
                raise PromptError(f"{name} must have one entry for each of the {len(images)} images; got {len(batch)}.")
        results = [
            self._predict(
                image,
                tuple(None if batch is None else batch[i] for batch in batches.values()),
                multimask_output,
                return_logits=return_logits,
                normalize=normalize_coords,
            )
            for i, image in enumerate(images)
        ]
        masks, scores, low_res = (list(column) for column in zip(*results, strict=True))
        return masks, scores, low_res

    @torch.no_grad()
    def decode_prompts(self, prompt: Prompt, *, multimask_output: bool) -> MaskPrediction:
        """Predict the masks of B objects of the image that is set, without checks and as tensors.

        Args:
            prompt: of B objects, in pixels of the network's input, on its device.
            multimask_output: three candidates for each object; False: one.

        Returns:
            The candidates [B, C, s, s] with their predicted IoUs, as decoded.

        Raises:
            SessionError: no image is set.
        """
        return self._decode(self._encoded()[0], prompt, multimask=multimask_output)

    def _encoded(self) -> list[EncodedImage]:
        if not self._images:
            raise SessionError("No image is set: call set_image or set_image_batch first.")
        return self._images

    @torch.no_grad()
    def _encode(self, pixels: NDArray[np.uint8]) -> EncodedImage:
        frames = FrameStore(open_source([pixels]), self.model.image_size, device=self.device, prefetch=0)
        with precision(self.device, self.dtype, self.model.no_mem_embed):
            conditioned = self.model.condition_on_memory(self._runner.encode(frames.clip(0)), None)
        return EncodedImage(conditioned=conditioned, height=pixels.shape[0], width=pixels.shape[1])

    @torch.no_grad()
    def _predict(
        self, image: EncodedImage, prompts: Sequence[Any], multimask: bool, *, return_logits: bool, normalize: bool
    ) -> ImageResult:
        """Return what `predict` returns; `prompts` are its first four arguments."""
        size = (image.height, image.width)
        clicks, start = parse_prompts(*prompts, size=size, image_size=self.model.image_size, normalize_coords=normalize)
        logits, scores = self._decode_objects(image, clicks, start, multimask=multimask)
        logits = self._without_small_parts(logits)
        masks = logits.new_zeros(*logits.shape[:2], *size)
        if len(logits):
            masks = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        if not return_logits:
            masks = (masks > self.mask_threshold).float()
        low_res = logits.clamp(-PREVIOUS_LOGIT_LIMIT, PREVIOUS_LOGIT_LIMIT)
        # One object has no axis for objects, as in SAM 2.
        masks, scores, low_res = (x[0] if len(clicks) == 1 else x for x in (masks, scores, low_res))
        return ImageResult(*(x.cpu().numpy() for x in (masks, scores, low_res)))

    def _decode_objects(
        self, image: EncodedImage, clicks: Sequence[Clicks | None], start: Tensor | None, *, multimask: bool
    ) -> tuple[Tensor, Tensor]:
        """Return logits [B, C, s, s] and IoUs [B, C]; objects with equally many points are decoded together."""
        groups: dict[int, list[int]] = {}
        for i, one in enumerate(clicks):
            groups.setdefault(0 if one is None else len(one.labels), []).append(i)
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for members in groups.values():
            for first in range(0, len(members), OBJECTS_PER_BATCH):
                chosen = members[first : first + OBJECTS_PER_BATCH]
                given = [one for i in chosen if (one := clicks[i]) is not None]
                prompt = Prompt(
                    coords=torch.stack([one.coords for one in given]).to(self.device) if given else None,
                    labels=torch.stack([one.labels for one in given]).to(self.device) if given else None,
                    mask=None if start is None else start[chosen].to(self.device),
                )
                prediction = self._decode(image, prompt, multimask=multimask)
                answers = zip(prediction.candidates, prediction.candidate_ious, strict=True)
                found.update(zip(chosen, answers, strict=True))
        if not found:
            side = self.model.image_size // 4
            nothing = torch.zeros(0, 3 if multimask else 1, side, side, dtype=torch.float32, device=self.device)
            return nothing, nothing[:, :, 0, 0]
        ordered = [found[i] for i in range(len(clicks))]
        return torch.stack([logits for logits, _ in ordered]), torch.stack([ious for _, ious in ordered])

    def _decode(self, image: EncodedImage, prompt: Prompt, *, multimask: bool) -> MaskPrediction:
        given = next(x for x in (prompt.labels, prompt.mask) if x is not None)
        conditioned = Conditioned(
            embedding=image.conditioned.embedding.expand(len(given), -1, -1, -1),
            memory_prompts=image.conditioned.memory_prompts.expand(len(given), -1, -1),
        )
        return self.model.decode(conditioned, prompt, multimask=multimask)

    def _without_small_parts(self, logits: Tensor) -> Tensor:
        """Fill holes and remove separate parts of masks [B, C, s, s] as the constructor was told."""
        threshold = self.mask_threshold
        for most, is_mask, value in (
            (self.max_hole_area, False, threshold + CLEAR_LOGIT),
            (self.max_sprinkle_area, True, threshold - CLEAR_LOGIT),
        ):
            if most > 0:
                parts = ((logits > threshold) == is_mask).cpu().numpy()
                small = np.stack([small_regions(part, most) for part in parts.reshape(-1, *parts.shape[2:])])
                logits = logits.masked_fill(torch.from_numpy(small).view_as(logits).to(logits.device), value)
        return logits
