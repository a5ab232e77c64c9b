"""Videos drawn from a seed: textured objects that move over a textured backdrop, with exact masks."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from .scene import Backdrop, Layer, Look, Scene, SceneVideo, draw_camera, draw_path
from .warp import Ripple, log_uniform

MAX_OBJECTS = 4
AREAS = (0.015, 0.25)  # share of the frame that an object covers, before it changes its scale
BACKDROP_MARGIN = 1.2  # size of the backdrop over that of the frame: what the camera can move over
SUPERSAMPLING = 2  # outlines are drawn larger by this factor and reduced, which makes edges soft


class ProceduralVideos:
    """A `Source` that needs no files: 1 to 4 objects move, turn, deform, hide each other, leave and come back.

    Args:
        length: number of videos.
        num_frames: frames of each video.
        size: side of the square frames in pixels.
        seed: with the index of a video it determines all its pixels.
        name: name of the source.
    """

    def __init__(
        self, length: int, *, num_frames: int = 8, size: int = 256, seed: int = 0, name: str = "procedural"
    ) -> None:
        limits = {"length": (length, 0), "num_frames": (num_frames, 1), "size": (size, 16), "seed": (seed, 0)}
        for argument, (value, least) in limits.items():
            if value < least:
                raise ValueError(f"ProceduralVideos: {argument} must be at least {least}, not {value}")
        self.name = name
        self._length = length
        self._num_frames = num_frames
        self._size = size
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> SceneVideo:
        """Open a video; nothing is drawn before its first frame is asked for."""
        if not 0 <= index < self._length:
            raise IndexError(f"{self.name}: video {index} of {self._length}")
        build = partial(self._build, index)
        return SceneVideo(f"{self.name}/{index:06d}", self._num_frames, build)

    def _build(self, index: int) -> Scene:
        rng = np.random.default_rng([self._seed, index])
        frame = (self._size, self._size)
        backdrop = draw_backdrop(rng, frame)
        count = int(rng.integers(1, MAX_OBJECTS + 1))
        layers = [draw_object(rng, frame, object_id=i + 1) for i in range(count)]
        return Scene(backdrop=backdrop, layers=tuple(layers), look=Look.draw(rng), num_frames=self._num_frames)


def draw_backdrop(rng: np.random.Generator, frame: tuple[int, int]) -> Backdrop:
    """Draw a textured backdrop of a frame of size (H, W) and the camera that moves over it.

    Args:
        rng: source of all draws.
        frame: size (H, W) of the frame in pixels.
    """
    height, width = (math.ceil(side * BACKDROP_MARGIN) for side in frame)
    camera = draw_camera(rng, frame, strength=log_uniform(rng, 0.01, 0.3))
    return Backdrop(pixels=draw_texture(rng, (height, width)), camera=camera, frame=frame)


def draw_object(
    rng: np.random.Generator,
    frame: tuple[int, int],
    *,
    object_id: int | None = None,
    through: NDArray[np.float64] | None = None,
    num_frames: int = 1,
) -> Layer:
    """Draw a textured object with a path over a frame of size (H, W), see `draw_path`.

    Args:
        rng: source of all draws.
        frame: size (H, W) of the frame in pixels.
        object_id: id of the layer's object; None: it only hides others.
        through: see `draw_path`.
        num_frames: frames of the video.
    """
    pixels = draw_sprite(rng, log_uniform(rng, *AREAS) * frame[0] * frame[1])
    size = math.hypot(*pixels.shape[1:]) / math.sqrt(2)
    return Layer(
        pixels=pixels,
        motion=draw_path(rng, frame, turn=math.pi / 3, through=through, num_frames=num_frames),
        object_id=object_id,
        ripple=Ripple.draw(rng, size, strain=rng.uniform(0.1, 0.5)) if rng.random() < 0.5 else None,
        follows_camera=through is None and rng.random() < 0.6,
    )


def draw_sprite(rng: np.random.Generator, area: float) -> Tensor:
    """Draw a textured shape of about `area` pixels: float32 [4, h, w], RGB times alpha in 0 to 255, alpha in 0 to 1.

    Args:
        rng: source of all draws.
        area: in pixels.
    """
    outline = draw_outline(rng)
    x, y = outline.T
    covered = abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))) / 2
    outline *= math.sqrt(area / covered)
    outline += 2 - outline.min(axis=0)
    width, height = (int(side) + 3 for side in outline.max(axis=0))
    large = Image.new("L", (width * SUPERSAMPLING, height * SUPERSAMPLING))
    pen = ImageDraw.Draw(large)
    pen.polygon([(px, py) for px, py in (outline * SUPERSAMPLING).tolist()], fill=255)
    if rng.random() < 0.2:
        middle = outline.mean(axis=0)
        hole = (draw_outline(rng) * rng.uniform(0.12, 0.2) * math.sqrt(area) + middle) * SUPERSAMPLING
        pen.polygon([(px, py) for px, py in hole.tolist()], fill=0)
    alpha = torch.from_numpy(np.array(large.reduce(SUPERSAMPLING), np.float32) / 255)[None]
    return torch.cat([draw_texture(rng, (height, width)) * alpha, alpha])


def draw_outline(rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw a closed outline [N, 2] around the origin, up to about 1 away from it: smooth, polygonal or elliptic."""
    kind = rng.integers(4)
    if kind == 0:  # a polygon with corners at irregular angles
        count = int(rng.integers(3, 9))
        angles = 2 * math.pi * (np.arange(count) + rng.uniform(-0.3, 0.3, count)) / count
        radii = rng.uniform(0.55, 1.0, count)
    elif kind == 1:  # an ellipse
        angles = np.linspace(0, 2 * math.pi, 64, endpoint=False)
        radii = np.ones(64)
    else:  # a blob, with more or fewer lobes
        angles = np.linspace(0, 2 * math.pi, 96, endpoint=False)
        waves = np.arange(2, 4 + 2 * kind)
        sizes = rng.uniform(0, 0.45, len(waves)) / waves**0.7
        radii = np.exp(np.cos(angles[:, None] * waves + rng.uniform(0, 2 * math.pi, len(waves))) @ sizes) / 1.6
    points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radii[:, None]
    points[:, 0] *= log_uniform(rng, 0.45, 1.0)
    turn = rng.uniform(0, 2 * math.pi)
    cos, sin = math.cos(turn), math.sin(turn)
    return points @ np.array([[cos, sin], [-sin, cos]])


def draw_texture(rng: np.random.Generator, size: tuple[int, int]) -> Tensor:
    """Draw a texture float32 [3, h, w], RGB in 0 to 255: noise, a gradient, stripes, checks or blobs in two colours.

    Args:
        rng: source of all draws.
        size: height and width in pixels.
    """
    height, width = size
    y = torch.linspace(0, height / max(size), height)[:, None]
    x = torch.linspace(0, width / max(size), width)[None]
    turn = rng.uniform(0, 2 * math.pi)
    along = x * math.cos(turn) + y * math.sin(turn)
    across = y * math.cos(turn) - x * math.sin(turn)
    rate = 2 * math.pi * log_uniform(rng, 2, 14)
    soft = _noise(rng, size, int(rng.integers(3, 8)))
    kind = rng.integers(5)
    if kind == 0:
        pattern = 0.6 * soft + 0.4 * _noise(rng, size, 16)
    elif kind == 1:
        pattern = 0.5 + 0.5 * along + 0.3 * (soft - 0.5)
    elif kind == 2:
        pattern = 0.5 + rng.uniform(0.5, 1.5) * torch.sin(rate * along + rng.uniform(0, 6) * soft)
    elif kind == 3:
        pattern = 0.5 + 2 * torch.sin(rate * along) * torch.sin(rate * across)
    else:
        pattern = 0.5 + rng.uniform(2, 12) * (_noise(rng, size, int(rng.integers(5, 16))) - 0.5)
    pattern = pattern.clamp(0, 1)
    first, second = _colour(rng), _colour(rng)
    shade = 0.75 + 0.25 * soft + rng.uniform(0, 0.4) * (_noise(rng, size, max(size) // 4) - 0.5)
    return ((first + (second - first) * pattern) * shade).clamp_(0, 255)


def _colour(rng: np.random.Generator) -> Tensor:
    """Draw a colour [3, 1, 1] in 0 to 255, from grey to glaring."""
    grey = rng.uniform(0, 255)
    colour = grey + rng.uniform(0, 1) * (rng.uniform(0, 255, 3) - grey)
    return torch.from_numpy(colour.astype(np.float32))[:, None, None]


def _noise(rng: np.random.Generator, size: tuple[int, int], cells: int) -> Tensor:
    """Draw smooth noise [h, w] in 0 to 1 whose spots are the longer side over `cells` large."""
    rows, columns = (max(2, round(cells * side / max(size)) + 1) for side in size)
    points = torch.from_numpy(rng.random((rows, columns), dtype=np.float32))[None, None]
    return F.interpolate(points, size, mode="bicubic", align_corners=True)[0, 0].clamp_(0, 1)
