"""How alike the frames of a video are: one key per frame, shared by all objects."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BLOCK = 32  # keys compared at a time


class SimilarityTable:
    """Cosine similarities between whole-frame embeddings.

    Keys (normalised copies of the embedding) are held for the nearest frames only; the similarities computed while two
    frames were both held are kept as numbers, so that a later pass needs no key again.

    Args:
        window: similarity is asked for frames at most this far apart.
        forget: also drop the numbers of frames further than `window` behind the newest (live streams).
    """

    def __init__(self, window: int, *, forget: bool = False) -> None:
        self.window = window
        self.forget = forget
        self._keys: Tensor | None = None  # [capacity, D * h * w], grown on demand
        self._rows: dict[int, int] = {}  # frame -> row of its key
        self._known: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # frame -> other frames, similarities

    def __contains__(self, frame_idx: object) -> bool:
        """Whether the key of a frame is held."""
        return frame_idx in self._rows

    def add(self, frame_idx: int, embedding: Tensor) -> None:
        """Hold the key of a frame, embedding [1, D, h, w], and compare it with all keys held."""
        if frame_idx in self._rows:
            return
        key = embedding.flatten().float()
        key = key * torch.rsqrt(key.square().mean() + 1e-12)
        others = [f for f in self._rows if abs(f - frame_idx) <= self.window]
        if others and self._keys is not None:
            with torch.autocast(key.device.type, enabled=False):
                products = torch.cat([keys.float() @ key for keys in self._keys[: len(self._rows)].split(BLOCK)])
            values = products.cpu().numpy()[[self._rows[f] for f in others]] / key.numel()
            self._remember(frame_idx, np.array(others), values)
        self._hold(frame_idx, key)

    def missing(self, frame_idx: int, others: Sequence[int]) -> list[int]:
        """Frames among `others` whose similarity to `frame_idx` is not known."""
        known = self._row(frame_idx)
        return [f for f in others if f not in known and self._lookup(f, frame_idx) is None]

    def get(self, frame_idx: int, others: Sequence[int]) -> np.ndarray:
        """Similarities [n] of `frame_idx` to n frames, all of them known."""
        known = self._row(frame_idx)
        values = [known[f] if f in known else self._lookup(f, frame_idx) for f in others]
        assert None not in values, "ask for `missing` first"
        return np.array(values, dtype=np.float32)

    def _row(self, frame_idx: int) -> dict[int, float]:
        frames, values = self._known.get(frame_idx, ((), ()))
        return dict(zip(frames, values, strict=True))

    def _lookup(self, frame_idx: int, other: int) -> float | None:
        return self._row(frame_idx).get(other)

    def _remember(self, frame_idx: int, others: np.ndarray, values: np.ndarray) -> None:
        if frame_idx in self._known:
            frames, old = self._known[frame_idx]
            fresh = ~np.isin(frames, others)
            others, values = np.concatenate([others, frames[fresh]]), np.concatenate([values, old[fresh]])
        self._known[frame_idx] = (others, values)
        if self.forget:
            for f in [f for f in self._known if frame_idx - f > self.window]:
                del self._known[f]

    def _hold(self, frame_idx: int, key: Tensor) -> None:
        """Store a key, in place of the most distant one when there is no room."""
        if len(self._rows) > self.window:
            row = self._rows.pop(max(self._rows, key=lambda f: abs(f - frame_idx)))
        else:
            row = len(self._rows)
        if self._keys is None or row >= len(self._keys):
            capacity = min(self.window + 1, max(8, 2 * row))
            # The products need float32. Converting is free on an accelerator, and dearer than the memory on a CPU.
            dtype = torch.float32 if key.device.type == "cpu" else torch.float16
            grown = key.new_empty(capacity, key.numel(), dtype=dtype)
            if self._keys is not None:
                grown[: len(self._keys)] = self._keys
            self._keys = grown
        self._keys[row] = key
        self._rows[frame_idx] = row
