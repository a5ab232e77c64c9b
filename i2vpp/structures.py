"""The typed values that flow between the parts of i2vpp.

Legend, used in every file: B objects, D model width (256), M memory width (64), h, w feature grid (image_size / 16),
H, W image or video size, P points or pointers, Q memory prompts (3), K candidate masks, N memory tokens.
Spatial sizes are read from tensors; nothing here knows an image size. Masks are float32 logits, positive = object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

ABSENT_LOGIT = -1024.0
"""Mask logit of an object that is judged absent from a frame (SAM 2's value)."""


def _check(owner: object, **expected: tuple[str, Tensor | None]) -> None:
    """Check tensors against legends such as "B D h w": ranks, equal letters, literal digits; or raise ValueError."""
    sizes: dict[str, int] = {}

    def fits(legend: str, tensor: Tensor) -> bool:
        letters = legend.split()
        return tensor.ndim == len(letters) and all(
            int(letter) == size if letter.isdigit() else sizes.setdefault(letter, size) == size
            for letter, size in zip(letters, tensor.shape, strict=True)
        )

    if all(tensor is None or fits(legend, tensor) for legend, tensor in expected.values()):
        return
    got = ", ".join(
        f"{name} [{legend.replace(' ', ', ')}] = {tuple(tensor.shape)}"
        for name, (legend, tensor) in expected.items()
        if tensor is not None
    )
    raise ValueError(f"{type(owner).__name__}: shapes do not fit together: {got}")


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameFeatures:
    """What the image encoder says about a frame; shared by all objects of the video.

    Args:
        embedding: [B, D, h, w].
        position: sine position map [1, D, h, w].
    """

    embedding: Tensor
    position: Tensor

    def __post_init__(self) -> None:
        _check(self, embedding=("B D h w", self.embedding), position=("1 D h w", self.position))


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """What the user drew on one frame, in pixels of the network's square input.

    Args:
        coords: [B, P, 2] x, y; None without clicks and box.
        labels: [B, P] int32: 0 negative, 1 positive, 2 and 3 box corners (before the clicks), -1 padding.
        mask: previous mask logits [B, 1, 4h, 4w] that the decoder starts from, or None.
    """

    coords: Tensor | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.coords is None) != (self.labels is None):
            raise ValueError("Prompt: coords and labels go together")
        _check(self, coords=("B P 2", self.coords), labels=("B P", self.labels), mask=("B 1 H W", self.mask))

    @property
    def num_points(self) -> int:
        """Clicks per object; a box counts as two."""
        return 0 if self.labels is None else self.labels.shape[1]


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameMemory:
    """The memory of one frame for each of B objects.

    Args:
        values: memory features [B, M, h, w], bfloat16.
        foreground: [B, h, w] bool, the object's cells.
        pointer: object pointer [B, D].
    """

    values: Tensor
    foreground: Tensor
    pointer: Tensor

    def __post_init__(self) -> None:
        _check(
            self, values=("B M h w", self.values), foreground=("B h w", self.foreground), pointer=("B D", self.pointer)
        )

    def to(self, device: torch.device) -> FrameMemory:
        """Return the same memory on `device`."""
        return FrameMemory(
            values=self.values.to(device), foreground=self.foreground.to(device), pointer=self.pointer.to(device)
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryFrame:
    """The memory of one frame with its temporal slot and weight, as memory attention reads it.

    Args:
        memory: of one object (B = 1) or of B objects.
        slot: temporal slot, 0 for conditioning frames, 1 (oldest) to 6 (newest) for non-conditioning ones.
        weight: multiplicity of the frame: weight n gives the result of n equal frames at the cost of one; 0 is padding.
    """

    memory: FrameMemory
    slot: int
    weight: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryPointer:
    """An object pointer as memory attention reads it.

    Args:
        pointer: [B, D].
        offset: temporal position, normalised by the selector.
        weight: multiplicity of the pointer; 0 is padding.
    """

    pointer: Tensor
    offset: float
    weight: int = 1


@dataclass(frozen=True, kw_only=True, eq=False)
class SelectedMemory:
    """The memories that a selector chose for one tracked frame: the input of `I2VPP.memory_tokens`."""

    spatial: tuple[MemoryFrame, ...]
    pointers: tuple[MemoryPointer, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(memory frames, pointers); selected memories of equal shape can be read as one batch."""
        return len(self.spatial), len(self.pointers)

    @property
    def unit_weights(self) -> bool:
        """Whether all weights are 1."""
        return all(e.weight == 1 for e in self.spatial) and all(e.weight == 1 for e in self.pointers)


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryTokens:
    """Memory as attention keys; the pointer tokens are the last `num_pointer_tokens`.

    Args:
        values: [B, N, M].
        position: [B, N, M].
        foreground: [B, N] bool; pointer tokens are all True.
        num_pointer_tokens: how many of the N tokens are pointer tokens.
        log_weights: [B, N] logarithms of the weights, added to attention logits; None if all weights are 1.
    """

    values: Tensor
    position: Tensor
    foreground: Tensor
    num_pointer_tokens: int
    log_weights: Tensor | None = None

    def __post_init__(self) -> None:
        _check(
            self,
            values=("B N M", self.values),
            position=("B N M", self.position),
            foreground=("B N", self.foreground),
            log_weights=("B N", self.log_weights),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioned:
    """A frame's features after memory was read.

    Args:
        embedding: [B, D, h, w].
        memory_prompts: [B, Q, D].
        auxiliary: deep-supervision mask logits [B, L, H, W] of the L memory-attention layers, or None.
    """

    embedding: Tensor
    memory_prompts: Tensor
    auxiliary: Tensor | None = None

    def __post_init__(self) -> None:
        _check(self, embedding=("B D h w", self.embedding), memory_prompts=("B Q D", self.memory_prompts),
               auxiliary=("B L H W", self.auxiliary))  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskPrediction:
    """What the decoder says about B objects on one frame.

    Args:
        logits: chosen mask [B, 1, 4h, 4w], holes not filled.
        iou: predicted IoU of the chosen mask [B].
        object_score: [B] logits, positive = the object is visible.
        pointer: object pointer [B, D].
        candidates: all predicted masks [B, K, 4h, 4w].
        candidate_ious: [B, K].
    """

    logits: Tensor
    iou: Tensor
    object_score: Tensor
    pointer: Tensor
    candidates: Tensor
    candidate_ious: Tensor

    def __post_init__(self) -> None:
        _check(
            self,
            logits=("B 1 H W", self.logits),
            iou=("B", self.iou),
            object_score=("B", self.object_score),
            pointer=("B D", self.pointer),
            candidates=("B K H W", self.candidates),
            candidate_ious=("B K", self.candidate_ious),
        )


@dataclass(frozen=True, eq=False)
class FrameResult(Sequence[Any]):
    """One frame's masks. Unpacks like SAM 2's tuple: `frame_idx, obj_ids, masks = result`.

    Args:
        frame_idx: index of the frame in the video.
        obj_ids: the user's object ids, in the order of the masks.
        masks: logits [len(obj_ids), 1, H, W] at the video's size, float32.
        object_scores: [len(obj_ids)] logits, positive = visible; NaN where nothing is known on this frame yet.
        predicted_ious: [len(obj_ids)] in [0, 1]; NaN where nothing is known on this frame yet.
        bad_frame: the frame cannot be decoded, and the frame before was tracked in its place: see `init_state`.
    """

    frame_idx: int
    obj_ids: list[int]
    masks: Tensor
    object_scores: Tensor
    predicted_ious: Tensor
    bad_frame: bool = False

    def __iter__(self) -> Iterator[Any]:
        return iter((self.frame_idx, self.obj_ids, self.masks))

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return (self.frame_idx, self.obj_ids, self.masks)[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The masks as NumPy's bool [len(obj_ids), H, W]; of another dtype, if one is asked for."""
        masks = (self.masks[:, 0] > 0).cpu().numpy()
        return masks if dtype is None else masks.astype(dtype)

    def __repr__(self) -> str:
        areas = (self.masks[:, 0] > 0).sum((1, 2)).tolist()
        rows = zip(self.obj_ids, areas, self.object_scores.tolist(), self.predicted_ious.tolist(), strict=True)
        objects = [f"{i}: area {area}, score {score:.1f}, IoU {iou:.2f}" for i, area, score, iou in rows]
        bad = ", bad frame" if self.bad_frame else ""
        return f"FrameResult(frame {self.frame_idx}{bad}; {'; '.join(objects) or 'no objects'})"

    def plot(self, frame: Any = None, *, alpha: float = 0.5, labels: bool = True) -> Any:
        """Draw the masks, each in its object's colour; a notebook shows the picture that is returned.

        Args:
            frame: the picture below the masks: uint8 RGB [H, W, 3], as `state.frame(result.frame_idx)` returns it, or a
                PIL image, of the masks' size; None for a dark background.
            alpha: strength of the tint, 0 to 1.
            labels: write its id into every object.

        Returns:
            A PIL image, RGB, W x H.

        Raises:
            ValueError: `frame` is no uint8 RGB picture of the masks' size.
        """
        from i2vpp.utils.visualize import plot  # noqa: PLC0415 - the values of this file need no Pillow

        masks = (self.masks[:, 0] > 0).cpu().numpy()
        return plot(frame, masks, self.obj_ids, alpha=alpha, labels=labels)

    def save(self, path: str | PathLike[str], frame: Any = None) -> None:
        """Write the masks to a file.

        Args:
            path: path of the file.
            frame: without one, the file is an index mask: a PNG whose pixels are object ids, with the palette of DAVIS.
                With one, it is the picture of `plot`, in the format that the suffix says.

        Raises:
            ValueError: `frame` does not fit, or the suffix is of no format that Pillow writes; without a frame, it must
                be `.png`.
            I2VPPError: an object id is none of 1 to 255, which an index mask can hold.
            OSError: the file cannot be written.
        """
        if frame is not None:
            self.plot(frame).save(path)
            return
        if not str(path).lower().endswith(".png"):
            raise ValueError(f"an index mask is a PNG: name it .png, or pass a frame to write a picture; got {path}")
        from i2vpp.utils.result_files import save_index_mask  # noqa: PLC0415 - as in `plot`

        save_index_mask(path, self)
