"""Synthetic videos: pictures with alpha that move over a backdrop seen by a moving camera, with exact masks.

Legend: H, W size of a frame, h, w size of a picture, K masks of a backdrop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from training.dataset.clips import PartialMasks

from .warp import Motion, Ripple, Swing, Window, corners, inverse, log_uniform, shift, smear, transform, warp, window_of

VISIBLE = 0.5  # share of a pixel's colour that is the object's, from which on the pixel belongs to its mask
KEPT_FRAMES = 8  # rendered frames that an open video keeps, since image and masks of a frame are mostly read together
LONGEST_SMEAR = 0.25  # longest motion blur over the smaller side of what moves; with more, a mask has no meaning


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """A cut-out that moves.

    Args:
        pixels: float32 [4, h, w]: RGB in 0 to 255, already multiplied by alpha, and alpha in 0 to 1.
        motion: motion of its centre over the frame, at size (h, w).
        object_id: id of the object whose mask it is; None: it only hides others.
        ripple: its deformation.
        follows_camera: whether the camera's motion moves it too.
    """

    pixels: Tensor
    motion: Motion
    object_id: int | None = None
    ripple: Ripple | None = None
    follows_camera: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Backdrop:
    """What fills the frame, seen by a moving camera.

    Args:
        pixels: float32 [3, h, w], RGB in 0 to 255.
        camera: the motion of the picture's centre over the frame; where it would show more than the picture, the
            whole video is zoomed in.
        frame: size (H, W) of the video.
        masks: float32 [K, h, w] in 0 to 1 of the objects in the picture.
        object_ids: K; None where the mask is that of the pixels that are not labelled.
    """

    pixels: Tensor
    camera: Motion
    frame: tuple[int, int]
    masks: Tensor | None = None
    object_ids: tuple[int | None, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the lens and the light do to the whole video.

    Args:
        shutter: time the shutter is open, in frames: the length of motion blur.
        focus: standard deviation of the lens blur, pixels.
        exposure: natural logarithm of the brightness.
    """

    shutter: float
    focus: Swing
    exposure: Swing

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Look:
        """Draw a look; most videos are sharp and evenly lit."""
        shutter = rng.uniform(0.3, 0.8) if rng.random() < 0.35 else 0.0
        blur = rng.uniform(0, 1.6, 2) if rng.random() < 0.2 else np.zeros(2)
        light = rng.uniform(-0.25, 0.25, 2) if rng.random() < 0.5 else np.zeros(2)
        return cls(shutter=shutter, focus=Swing.draw(rng, *blur), exposure=Swing.draw(rng, *light))


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """All that is needed to render any frame of a video; the last layer is in front.

    `problems` are those of the annotations that it was made from, see `training.dataset.clips.problems_of`.
    """

    backdrop: Backdrop
    layers: tuple[Layer, ...]
    look: Look
    num_frames: int
    problems: tuple[str, ...] = ()

    def render(self, t: int) -> Rendered:
        """Draw frame t."""
        backdrop = self.backdrop
        everything = Window(top=0, bottom=backdrop.frame[0], left=0, right=backdrop.frame[1])
        source = backdrop.pixels if backdrop.masks is None else torch.cat([backdrop.pixels, backdrop.masks])
        warped = warp(source, self._camera(t), everything, padding="border")
        blur = self._blur(lambda at: inverse(self._camera(at)), corners(source.shape[1:]), min(backdrop.frame), t)
        canvas = smear(warped[:3], *blur)
        shares = warped[3:]
        ids = list(backdrop.object_ids)
        for layer in self.layers:
            shares = self._add(layer, t, canvas, shares)
            ids += [] if layer.object_id is None else [layer.object_id]
        return Rendered(image=self._develop(canvas, t), object_ids=tuple(ids), masks=(shares >= VISIBLE).numpy())

    def _add(self, layer: Layer, t: int, canvas: Tensor, shares: Tensor) -> Tensor:
        """Draw a layer on the canvas; return the objects' shares of each pixel, with those of the layer's object."""
        size = layer.pixels.shape[1:]
        reach = 0.0 if layer.ripple is None else layer.ripple.reach
        outline = corners(size, margin=reach)
        matrix = self._to_layer(layer, t)
        on_frame = transform(inverse(matrix), outline)
        extent = float(np.ptp(on_frame, axis=0).min())
        blur = self._blur(lambda at: inverse(self._to_layer(layer, at)), outline, extent, t)
        window = window_of(on_frame, self.backdrop.frame, margin=1 + max(map(abs, blur)))
        share = canvas.new_zeros(1, *canvas.shape[1:])
        if not window.empty:
            part = (slice(None), *window.part)
            drawn = smear(warp(layer.pixels, matrix, window, ripple=layer.ripple, t=t), *blur)
            behind = 1 - drawn[3:]
            canvas[part] = canvas[part] * behind + drawn[:3]
            shares[part] *= behind
            share[part] = drawn[3:]
        return shares if layer.object_id is None else torch.cat([shares, share])

    @cached_property
    def _zoom(self) -> float:
        """By how much the camera must zoom in for the frame to stay inside the backdrop on all frames."""
        size = self.backdrop.pixels.shape[1:]
        half = np.array([size[1], size[0]]) / 2
        seen = [
            transform(self.backdrop.camera.at(t).to_picture(size), corners(self.backdrop.frame))
            for t in range(self.num_frames)
        ]
        return max(1.0, float((np.abs(np.stack(seen) + 0.5 - half) / half).max()))

    def _camera(self, t: float) -> NDArray[np.float64]:
        """Return the homography from the frame to the backdrop's pixels."""
        size = self.backdrop.pixels.shape[1:]
        x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
        zoom = np.diag(np.array([1 / self._zoom, 1 / self._zoom, 1.0]))
        return shift(x, y) @ zoom @ shift(-x, -y) @ self.backdrop.camera.at(t).to_picture(size)

    def _to_layer(self, layer: Layer, t: float) -> NDArray[np.float64]:
        """Return the homography from the frame to a layer's pixels."""
        matrix = layer.motion.at(t).to_picture(layer.pixels.shape[1:])
        if not layer.follows_camera:
            return matrix
        return matrix @ inverse(self._camera(0)) @ self._camera(t)

    def _blur(
        self, to_frame: Callable[[float], NDArray[np.float64]], outline: NDArray[np.float64], extent: float, t: int
    ) -> tuple[float, float]:
        """Return how far (x, y) the middle of something moves while the shutter is open."""
        if self.look.shutter == 0:
            return 0.0, 0.0
        middle = outline.mean(axis=0)
        before, after = (transform(to_frame(t + side * self.look.shutter / 2), middle) for side in (-1, 1))
        way = after - before
        length = float(np.hypot(*way))
        dx, dy = way * min(1.0, LONGEST_SMEAR * extent / max(length, 1e-6))
        return float(dx), float(dy)

    def _develop(self, canvas: Tensor, t: int) -> NDArray[np.uint8]:
        """Turn float RGB [3, H, W] into a frame uint8 [H, W, 3] with the video's look."""
        bright = (canvas * math.exp(self.look.exposure.at(t)) + 0.5).clamp_(0, 255)
        image: NDArray[np.uint8] = bright.to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        radius = self.look.focus.at(t)
        if radius < 0.2:
            return image
        return np.array(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Rendered:
    """A frame: RGB uint8 [H, W, 3], and the masks bool [N, H, W] of all objects, visible or not, as in `Backdrop`."""

    image: NDArray[np.uint8]
    object_ids: tuple[int | None, ...]
    masks: NDArray[np.bool_]


class SceneVideo:
    """A scene as an `AnnotatedVideo`, built when its first frame is read.

    Args:
        name: name of the video.
        num_frames: its length.
        build: makes the scene, of that length; called once.
    """

    def __init__(self, name: str, num_frames: int, build: Callable[[], Scene]) -> None:
        self.name = name
        self._num_frames = num_frames
        self._build = build
        self._render = lru_cache(maxsize=KEPT_FRAMES)(self._draw)

    @cached_property
    def _scene(self) -> Scene:
        return self._build()

    def __len__(self) -> int:
        return self._num_frames

    @property
    def problems(self) -> tuple[str, ...]:
        """Describe broken annotations that were left out of what the scene was made from."""
        return self._scene.problems

    def image(self, t: int) -> NDArray[np.uint8]:
        """Draw frame t as RGB [H, W, 3]."""
        return self._frame(t).image.copy()

    def masks(self, t: int) -> Mapping[int, NDArray[np.bool_]]:
        """Return the masks [H, W] of the objects that can be seen on frame t, by object id."""
        frame = self._frame(t)
        seen = {i: mask.copy() for i, mask in zip(frame.object_ids, frame.masks, strict=True) if mask.any()}
        return PartialMasks({i: mask for i, mask in seen.items() if i is not None}, seen.get(None))

    def _draw(self, t: int) -> Rendered:
        return self._scene.render(t)

    def _frame(self, t: int) -> Rendered:
        if not 0 <= t < self._num_frames:
            raise IndexError(f"{self.name}: frame {t} of {self._num_frames}")
        return self._render(t)


def draw_path(
    rng: np.random.Generator,
    frame: tuple[int, int],
    *,
    turn: float,
    through: NDArray[np.float64] | None = None,
    num_frames: int = 8,
) -> Motion:
    """Draw how an object moves: it starts in the frame, and one in five leaves it.

    Args:
        rng: source of all draws.
        frame: size (H, W) of the frame in pixels.
        turn: how far it may be rotated at the start, radians; on its way it turns by as much again.
        through: place (x, y) that it passes in the middle of the video, such as an object that it is to hide.
        num_frames: frames of the video.
    """
    size = np.array([frame[1], frame[0]], dtype=np.float64)
    side = float(size.max())
    start = rng.uniform(0.15, 0.85, 2) * size
    if through is not None:
        end = 2 * through - start
        speed = min(0.15 * side, math.pi / 2 * float(np.hypot(*(end - start))) / num_frames)
    elif rng.random() < 0.2:
        direction = rng.uniform(0, 2 * math.pi)
        end = start + np.array([math.cos(direction), math.sin(direction)]) * side * rng.uniform(0.7, 1.1)
        speed = log_uniform(rng, 0.05, 0.12) * side
    else:
        end = rng.uniform(0.1, 0.9, 2) * size
        speed = log_uniform(rng, 0.005, 0.06) * side
    frames = math.pi / 2 * float(np.hypot(*(end - start))) / max(speed, 1e-6)
    angle = rng.uniform(-turn, turn)
    tilt = rng.uniform(-0.15, 0.15, 4) / side
    return Motion(
        x=Swing.draw(rng, start[0], end[0], frames=frames),
        y=Swing.draw(rng, start[1], end[1], frames=frames),
        angle=Swing.draw(rng, angle, angle + rng.uniform(-turn, turn)),
        log_scale=Swing.draw(rng, *rng.uniform(-0.25, 0.25, 2)),
        tilt_x=Swing.draw(rng, tilt[0], tilt[1]),
        tilt_y=Swing.draw(rng, tilt[2], tilt[3]),
    )


def draw_camera(rng: np.random.Generator, frame: tuple[int, int], *, strength: float) -> Motion:
    """Draw how a camera moves over a backdrop: by about `strength` of the frame's longer side, to be below 0.5.

    Args:
        rng: source of all draws.
        frame: size (H, W) of the frame in pixels.
        strength: largest way over the frame's longer side, below 0.5; turn, zoom and tilt grow with it.
    """
    side = max(frame)
    centre_y, centre_x = (frame[0] - 1) / 2, (frame[1] - 1) / 2
    x0, x1, y0, y1 = rng.uniform(-0.5, 0.5, 4) * strength * side
    turn0, turn1 = rng.uniform(-0.5, 0.5, 2) * strength
    zoom0, zoom1 = rng.uniform(0.0, 1.5, 2) * strength
    tilt = rng.uniform(-1, 1, 4) * strength / side
    frames = math.pi / 2 * float(np.hypot(x1 - x0, y1 - y0)) / (log_uniform(rng, 0.003, 0.05) * side)
    return Motion(
        x=Swing.draw(rng, centre_x + x0, centre_x + x1, frames=frames),
        y=Swing.draw(rng, centre_y + y0, centre_y + y1, frames=frames),
        angle=Swing.draw(rng, turn0, turn1),
        log_scale=Swing.draw(rng, zoom0, zoom1),
        tilt_x=Swing.draw(rng, tilt[0], tilt[1]),
        tilt_y=Swing.draw(rng, tilt[2], tilt[3]),
    )
