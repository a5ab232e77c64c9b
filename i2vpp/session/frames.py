"""The network input of a video: clips of three frames, resized, normalised, and decoded ahead in the background."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from concurrent.futures import Future
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from i2vpp.errors import SessionError
from i2vpp.session.sources import FrameSource

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


AHEAD_ON_CPU = 2
AHEAD_ON_ACCELERATOR = 4
"""Frames that are decoded ahead. Resizing one takes about 10 ms; an accelerator may need one every 4 ms."""


class FrameStore:
    """Clips for the image encoder from a video, through a cache of resized frames.

    Each frame is decoded, resized, copied to the device and normalised once while tracking goes on. Memory: `capacity`
    frames of 3 x S x S bytes on the CPU, page-locked for a CUDA device, and on the device the latest clip, 36 x S x S
    bytes. Closing the store does not close the source.

    Args:
        source: the video.
        image_size: side S of the network's square input; the aspect ratio is not kept.
        device: device on which clips are made.
        capacity: number of resized frames that are kept.
        prefetch: number of announced frames (see `hint`) that are decoded ahead in the background; 0 for no threads;
            default: 2 if the network runs on the CPU, else 4.
        threads: number of background threads; default: 1 if the network runs on the CPU and needs the cores itself,
            else as many as frames are decoded ahead, but at most one less than there are cores.

    Raises:
        ValueError: a number is too small.
    """

    def __init__(
        self,
        source: FrameSource,
        image_size: int,
        *,
        device: torch.device,
        capacity: int = 16,
        prefetch: int | None = None,
        threads: int | None = None,
    ) -> None:
        on_cpu = device.type == "cpu"
        if prefetch is None:
            prefetch = AHEAD_ON_CPU if on_cpu else AHEAD_ON_ACCELERATOR
        if threads is None:
            threads = 1 if on_cpu else max(1, min(prefetch, (os.cpu_count() or 1) - 1))
        if prefetch < 0:
            raise ValueError(f"prefetch = {prefetch}; allowed: 0 or more")
        if threads < 1:
            raise ValueError(f"threads = {threads}; allowed: 1 or more")
        if capacity < 3 + prefetch:
            raise ValueError(f"capacity = {capacity}; allowed: at least 3 + prefetch = {3 + prefetch}")
        self._source = source
        self._image_size = image_size
        self._device = device
        self._capacity = capacity
        self._prefetch = prefetch
        self._threads = threads
        self._lock = threading.Lock()
        self._frames: OrderedDict[int, Future[Tensor]] = OrderedDict()  # uint8 [3, S, S], the latest used last
        self._normalised: dict[int, Tensor] = {}  # [3, S, S], parts of the latest clip
        self._announced = range(0)
        self._needed: set[int] = set()  # frames of the current clip and those ahead; they are not evicted
        self._ahead: list[int] = []  # frames for the background threads to decode, in this order
        self._workers = 0
        self._closed = False

    def clip(self, t: int) -> Tensor:
        """Return frames t-2, t-1, t as float32 [1, 3, 3, S, S] = [batch, channel, time, H, W], ImageNet-normalised.

        Frame t is last, whatever the tracking direction; in place of frames before the first one, it is repeated at the
        end: 0, 0, 0 and 0, 1, 1. Copy before writing into a clip: the next one is made from it.

        Raises:
            IndexError: the video has no frame t.
            VideoError: one of the frames cannot be read.
            SessionError: the store is closed.
        """
        if t < 0:
            raise IndexError(f"frame {t}: indices start at 0")
        self._look_ahead(t)
        side = self._image_size
        clip = torch.empty(1, 3, 3, side, side, dtype=torch.float32, device=self._device)
        held = dict(self._normalised)
        indices = clip_indices(t)
        for part, i in zip(clip[0].unbind(dim=1), indices, strict=True):
            if i in held:
                part.copy_(held[i])
            else:
                part.copy_(self._frame(i).to(self._device, non_blocking=self._device.type != "mps"))
                normalise(part)
            held[i] = part
        self._normalised = {i: held[i] for i in indices}
        return clip

    def hint(self, upcoming: range) -> None:
        """Announce the clips that will be asked for, in order; only these are decoded in the background."""
        self._announced = upcoming
        self._look_ahead(None)

    @property
    def device(self) -> torch.device:
        """Device on which clips are made."""
        return self._device

    @property
    def num_bytes(self) -> int:
        """Memory of the frames held, without those that are being loaded."""
        with self._lock:
            loaded = [future.result() for future in self._frames.values() if future.done() and not future.exception()]
        return sum(frame.nbytes for frame in (*loaded, *self._normalised.values()))

    def close(self) -> None:
        """Release all frames; the background threads end with the frame that they are decoding."""
        with self._lock:
            self._closed = True
            self._ahead.clear()
            self._frames.clear()
            self._normalised = {}

    def _frame(self, i: int) -> Tensor:
        future, is_mine = self._claim(i)
        if is_mine:
            self._load(i, future)
        return future.result()

    def _claim(self, i: int) -> tuple[Future[Tensor], bool]:
        """Return the future of frame i, and whether the caller has to load the frame."""
        with self._lock:
            self._check_open()
            is_mine = i not in self._frames
            future = self._frames.setdefault(i, Future())
            self._frames.move_to_end(i)
            self._evict()
            return future, is_mine

    def _evict(self) -> None:
        spare = [i for i in self._frames if i not in self._needed]
        for i in spare[: max(len(self._frames) - self._capacity, 0)]:
            del self._frames[i]

    def _load(self, i: int, future: Future[Tensor]) -> None:
        try:
            size = (self._image_size, self._image_size)
            image = Image.fromarray(self._source[i]).resize(size, Image.Resampling.BICUBIC)
            frame = torch.empty(3, *size, dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            for plane, band in zip(frame.numpy(), image.split(), strict=True):
                plane[:] = np.asarray(band)  # by NumPy: PyTorch would start further threads in this thread
            future.set_result(frame)
        except BaseException as error:  # noqa: BLE001 - not swallowed: raised by whoever waits for the frame or asks again
            with self._lock:
                if self._frames.get(i) is future:
                    del self._frames[i]
            future.set_exception(error)

    def _check_open(self) -> None:
        if self._closed:
            raise SessionError("the frame store is closed")

    # ---- decoding ahead

    def _look_ahead(self, t: int | None) -> None:
        """Start to decode what the announced clips after t need; after no t or an unannounced one, the first clips."""
        with self._lock:
            self._check_open()
            clips = self._announced
            if t is not None and t in clips:
                clips = clips[clips.index(t) + 1 :]
            current = () if t is None else clip_indices(t)
            upcoming = dict.fromkeys(
                i for clip in clips[: self._prefetch] for i in clip_indices(clip) if i not in current
            )
            self._needed = {*current, *upcoming}
            self._ahead = [i for i in upcoming if i not in self._frames][: self._prefetch]
            for _ in range(min(self._threads, len(self._ahead)) - self._workers):
                threading.Thread(target=self._work, name="i2vpp-prefetch", daemon=True).start()
                self._workers += 1

    def _work(self) -> None:
        """Load the frames that are needed ahead, then end: an idle store has no thread."""
        while True:
            with self._lock:
                if not self._ahead:
                    self._workers -= 1
                    return
                i = self._ahead.pop(0)
                if i in self._frames:
                    continue
                future = self._frames[i] = Future()
                self._evict()
            self._load(i, future)


def normalise(frames: Tensor) -> Tensor:
    """Turn RGB of 0 to 255, float32 [..., 3, H, W], into the network's input, in place, and return it."""
    mean, std = _statistics(frames.device)
    return frames.div_(255).sub_(mean).div_(std)


@lru_cache(maxsize=8)
def _statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        mean, std = (torch.tensor(x, dtype=torch.float32, device=device).view(3, 1, 1) for x in (MEAN, STD))
        return mean, std


def clip_indices(t: int) -> tuple[int, int, int]:
    """Return the frames of clip t in order; the clips of frames 0 and 1 repeat frame t."""
    return (t - 2, t - 1, t) if t >= 2 else (0, t, t)
