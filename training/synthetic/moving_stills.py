"""Videos made of annotated photos: a camera that moves over one of them, or its objects cut out and moved over another.

Legend: H, W size of a frame, h, w size of a picture, K objects of a photo.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

from training.dataset.clips import Source, ignored_pixels, problems_of

from .procedural import draw_object
from .scene import Backdrop, Layer, Look, Scene, SceneVideo, draw_camera, draw_path
from .warp import Ripple, log_uniform

COMPOSED = 0.6  # probability that a photo's objects are cut out, where it has some; otherwise the camera moves over it
HIDDEN = 0.4  # probability that something without a mask passes in front of an object
MAX_OBJECTS = 3  # most objects that are cut out
MAX_MASKS = 16  # most masks of a photo that a camera moves over (SA-1B has hundreds)
CUTTABLE = (0.002, 0.6)  # share of its photo that an object must cover to be cut out
AREAS = (0.015, 0.25)  # share of the frame that a cut-out covers, before it changes its scale
LARGEST = 0.95  # longest side of a cut-out, over the frame's
ENLARGED = 1.6  # largest enlargement of a cut-out


class MovingStills:
    """A `Source` that turns still images into videos.

    Of each still it makes one video, drawn from two kinds. Either a camera pans, zooms, turns and tilts over the
    photo, whose objects keep their ids. Or 1 to 3 of its objects are cut out and move, turn, deform and hide each other
    over another photo; their ids are 1, 2, 3. In both, something unannotated may pass in front. Stills without objects,
    and a single still without `backgrounds`, give the first kind.

    Args:
        stills: videos of one frame; only the first frame of longer ones is used.
        num_frames: frames of each video.
        backgrounds: stills over which cut-outs are laid; default: the other `stills`.
        seed: with the index of a video and the stills it determines all its pixels.
        max_side: larger photos are scaled down until their longer side has so many pixels.
        name: name of the source; default: that of `stills`.

    Raises:
        DataError: when a frame is read: a still of `stills` or `backgrounds` that the video is made of cannot be read.
    """

    def __init__(
        self,
        stills: Source,
        *,
        num_frames: int = 8,
        backgrounds: Source | None = None,
        seed: int = 0,
        max_side: int = 512,
        name: str | None = None,
    ) -> None:
        limits = {"num_frames": (num_frames, 1), "seed": (seed, 0), "max_side": (max_side, 16)}
        for argument, (value, least) in limits.items():
            if value < least:
                raise ValueError(f"MovingStills: {argument} must be at least {least}, not {value}")
        self.name = stills.name if name is None else name
        self._stills = stills
        self._backgrounds = backgrounds
        self._num_frames = num_frames
        self._seed = seed
        self._max_side = max_side

    def __len__(self) -> int:
        return len(self._stills)

    def __getitem__(self, index: int) -> SceneVideo:
        """Open a video; no photo is read before its first frame is asked for."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name}: video {index} of {len(self)}")
        name = f"{self._stills[index].name} (moving)"
        return SceneVideo(name, self._num_frames, partial(self._build, index))

    def _build(self, index: int) -> Scene:
        rng = np.random.default_rng([self._seed, index])
        photo = read_photo(self._stills, index)
        behind = self._draw_background(rng, index)
        if behind is not None and photo.cuttable() and rng.random() < COMPOSED:
            backdrop, layers = self._compose(rng, index, photo, read_photo(*behind))
        else:
            backdrop, layers = self._look_at(rng, photo), []
        if rng.random() < HIDDEN:
            layers = [*layers, self._draw_occluder(rng, index, backdrop.frame, layers)]
        return Scene(
            backdrop=backdrop,
            layers=tuple(layers),
            look=Look.draw(rng),
            num_frames=self._num_frames,
            problems=problems_of(photo.masks),  # problems of the other photos are reported with their own videos
        )

    def _draw_background(self, rng: np.random.Generator, index: int) -> tuple[Source, int] | None:
        """Draw a photo other than still `index`, which is not read yet."""
        if self._backgrounds is not None and len(self._backgrounds):
            return self._backgrounds, int(rng.integers(len(self._backgrounds)))
        return self._draw_other(rng, index)

    def _draw_other(self, rng: np.random.Generator, index: int) -> tuple[Source, int] | None:
        if len(self) < 2:
            return None
        return self._stills, int(index + rng.integers(1, len(self))) % len(self)

    def _look_at(self, rng: np.random.Generator, photo: Photo) -> Backdrop:
        """Let a camera move over a photo with its masks."""
        image = photo.scaled_to(self._max_side)
        frame = (image.height, image.width)
        camera = draw_camera(rng, frame, strength=log_uniform(rng, 0.04, 0.4))
        ids = sorted(photo.masks)
        if len(ids) > MAX_MASKS:
            ids = sorted(rng.choice(ids, MAX_MASKS, replace=False).tolist())
        masks = [_resize_mask(photo.masks[i], image.size) for i in ids]
        if (ignored := ignored_pixels(photo.masks)) is not None:
            masks.append(_resize_mask(ignored, image.size))
        return Backdrop(
            pixels=_to_tensor(image),
            camera=camera,
            frame=frame,
            masks=torch.from_numpy(np.stack(masks)) if masks else None,
            object_ids=(*ids, *[None] * (len(masks) - len(ids))),
        )

    def _compose(
        self, rng: np.random.Generator, index: int, photo: Photo, behind: Photo
    ) -> tuple[Backdrop, list[Layer]]:
        """Lay objects of a photo, and of other stills where it has few, over another one; the last is in front."""
        image = behind.scaled_to(self._max_side)
        frame = (image.height, image.width)
        backdrop = Backdrop(
            pixels=_to_tensor(image),
            camera=draw_camera(rng, frame, strength=log_uniform(rng, 0.01, 0.2)),
            frame=frame,
        )
        count = int(rng.integers(1, MAX_OBJECTS + 1))
        cuttable = photo.cuttable()
        drawn = rng.choice(cuttable, min(count, len(cuttable)), replace=False).tolist()
        cuts = [Cut.out_of(photo, object_id) for object_id in drawn]
        while len(cuts) < count and (cut := self._cut_other(rng, index)) is not None:
            cuts.append(cut)
        layers = [cut.moved(rng, frame, object_id=number) for number, cut in enumerate(cuts, 1)]
        return backdrop, [layers[i] for i in rng.permutation(len(layers))]

    def _cut_other(self, rng: np.random.Generator, index: int) -> Cut | None:
        """Cut an object out of a still other than `index`; None where there is no other, or nothing in it."""
        other = self._draw_other(rng, index)
        photo = None if other is None else read_photo(*other)
        if photo is None or not (cuttable := photo.cuttable()):
            return None
        return Cut.out_of(photo, int(rng.choice(cuttable)))

    def _draw_occluder(
        self, rng: np.random.Generator, index: int, frame: tuple[int, int], layers: list[Layer]
    ) -> Layer:
        """Draw something without a mask that passes in front of one of the layers, or through the middle."""
        through = np.array([frame[1], frame[0]]) * rng.uniform(0.35, 0.65, 2)
        if layers:
            place = layers[int(rng.integers(len(layers)))].motion.at(self._num_frames / 2)
            through = np.array([place.x, place.y])
        cut = self._cut_other(rng, index) if rng.random() < 0.5 else None
        if cut is None:
            return draw_object(rng, frame, through=through, num_frames=self._num_frames)
        return cut.moved(rng, frame, through=through, num_frames=self._num_frames)


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """An annotated photo: RGB uint8 [h, w, 3] and masks bool [h, w] by object id."""

    image: NDArray[np.uint8]
    masks: Mapping[int, NDArray[np.bool_]]

    def scaled_to(self, max_side: int) -> Image.Image:
        """Return the photo, scaled down where its longer side has more pixels than that."""
        image = Image.fromarray(self.image)
        factor = min(1.0, max_side / max(image.size))
        if factor == 1:
            return image
        width, height = (max(1, round(side * factor)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)

    def cuttable(self) -> list[int]:
        """Name the objects that are large enough to be cut out and do not fill the photo."""
        low, high = (share * self.image.shape[0] * self.image.shape[1] for share in CUTTABLE)
        return sorted(i for i, mask in self.masks.items() if low <= np.count_nonzero(mask) <= high)


def read_photo(source: Source, index: int) -> Photo:
    """Read the first frame of a video with its masks.

    Args:
        source: stills, or videos.
        index: index of the video.

    Raises:
        DataError: the frame or its masks cannot be read.
    """
    video = source[index]
    return Photo(image=video.image(0), masks=video.masks(0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """An object with its surroundings, as it lies in its photo: RGB image and mask (0 or 255) of one size."""

    image: Image.Image
    mask: Image.Image
    area: int

    @classmethod
    def out_of(cls, photo: Photo, object_id: int) -> Cut:
        """Cut the box of an object that has a pixel at least.

        Args:
            photo: an annotated photo.
            object_id: id of one of its objects.
        """
        mask = photo.masks[object_id]
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        inside = np.ascontiguousarray(mask[box])
        return cls(
            image=Image.fromarray(np.ascontiguousarray(photo.image[box])),
            mask=Image.fromarray(inside.astype(np.uint8) * np.uint8(255)),
            area=int(np.count_nonzero(inside)),
        )

    def moved(
        self,
        rng: np.random.Generator,
        frame: tuple[int, int],
        *,
        object_id: int | None = None,
        through: NDArray[np.float64] | None = None,
        num_frames: int = 1,
    ) -> Layer:
        """Draw the cut-out's size, edges, deformation and path over a frame of size (H, W), see `draw_path`.

        Args:
            rng: source of all draws.
            frame: size (H, W) of the frame in pixels.
            object_id: id of the layer's object; None: it only hides others.
            through: see `draw_path`.
            num_frames: frames of the video.
        """
        wanted = math.sqrt(log_uniform(rng, *AREAS) * frame[0] * frame[1] / self.area)
        factor = min(wanted, ENLARGED, LARGEST * max(frame) / max(self.mask.size))
        pixels = self._pixels(factor, softness=rng.uniform(0.5, 1.4))
        size = math.hypot(*pixels.shape[1:]) / math.sqrt(2)
        return Layer(
            pixels=pixels,
            motion=draw_path(rng, frame, turn=math.pi / 8, through=through, num_frames=num_frames),
            object_id=object_id,
            ripple=Ripple.draw(rng, size, strain=rng.uniform(0.05, 0.35)) if rng.random() < 0.5 else None,
            follows_camera=through is None and rng.random() < 0.6,
        )

    def _pixels(self, factor: float, *, softness: float) -> Tensor:
        """Return float32 [4, h, w] as in `Layer`, with edges blurred by `softness` pixels."""
        width, height = (max(1, round(side * factor)) for side in self.mask.size)
        image = self.image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        mask = self.mask.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
        border = math.ceil(3 * softness)
        soft = ImageOps.expand(mask, border).filter(ImageFilter.GaussianBlur(softness))
        alpha = torch.from_numpy(np.array(soft, np.float32) / 255)[None]
        colour = F.pad(_to_tensor(image)[None], (border, border, border, border), mode="replicate")[0]
        return torch.cat([colour * alpha, alpha])


def _to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB image as float32 [3, h, w]."""
    return torch.from_numpy(np.array(image, np.float32)).permute(2, 0, 1).contiguous()


def _resize_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return how much of each pixel of an image of `size` (w, h) a mask covers: float32 [h, w] in 0 to 1."""
    image = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    if image.size != size:
        image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.array(image, np.float32) / np.float32(255)
