"""Similarity of the frames of a video: one key per frame, shared by all objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from i2vpp.memory.cpu_copy import CpuCopy

CPU_PARTS = 16
"""Number of parts of a key on a CPU, which multiplies the parts of a key in parallel but one key after the other."""

GPU_PART = 2048
"""Elements of a key that a GPU multiplies and adds up in float16; the sums of all parts are added up in float32."""

LARGEST_SUM = 2.0**15
"""Scale of the product of a key with itself, so that no partial sum of a product exceeds the range of float16."""

UNKNOWN = np.inf


@dataclass(frozen=True, kw_only=True)
class _Comparison:
    """Similarities of one frame to others that are being computed.

    Args:
        others: the other frames [n].
        rows: where among the products they are [n].
        products: [m], m >= n, times LARGEST_SUM.
    """

    others: np.ndarray
    rows: np.ndarray
    products: CpuCopy


class SimilarityTable:
    """Cosine similarities between whole-frame embeddings; exact on a CPU, to about 1e-4 elsewhere.

    Keys (normalised copies of the embedding: float32 on a CPU, where float16 may have no fast product, float16
    elsewhere) are held for the nearest frames only; the similarities computed while two frames were both held are kept
    as numbers, so that a later pass needs no key again. `add` does not wait for the device; `missing` and `get` do, if
    what they are asked for is still being computed.

    Args:
        window: similarity is asked for frames at most this far apart.
        forget: also drop the numbers of frames further than `window` behind the newest (live streams).
    """

    def __init__(self, window: int, *, forget: bool = False) -> None:
        self.window = window
        self.forget = forget
        self._keys: Tensor | None = None  # [parts, capacity, elements of a part], grown on demand
        self._rows: dict[int, int] = {}  # frame -> row of its key
        self._known: dict[int, np.ndarray] = {}  # frame -> similarity [window] to the frames 1, 2, ... before it
        self._pending: dict[int, _Comparison] = {}

    def __contains__(self, frame_idx: object) -> bool:
        """Whether the key of a frame is held."""
        return frame_idx in self._rows

    @property
    def num_bytes(self) -> int:
        """Memory of keys and similarities."""
        return (0 if self._keys is None else self._keys.nbytes) + sum(row.nbytes for row in self._known.values())

    @torch.inference_mode()  # of its own: keys made in a caller's inference mode could not be replaced outside
    def add(self, frame_idx: int, embedding: Tensor) -> None:
        """Hold the key of a frame and start to compare it with all keys held.

        Args:
            frame_idx: the frame.
            embedding: [1, D, h, w].
        """
        if frame_idx in self._rows:
            return
        values = embedding.to(torch.float32, memory_format=torch.contiguous_format).flatten()
        scale = torch.rsqrt(values.square().mean() + 1e-12)
        on_cpu = values.device.type == "cpu"
        part = -(-len(values) // CPU_PARTS) if on_cpu else GPU_PART
        key = values * scale
        if len(values) % part:
            key = F.pad(key, (0, -len(values) % part))
        key = key.view(-1, part).to(torch.float32 if on_cpu else torch.float16)
        others = [f for f in self._rows if abs(f - frame_idx) <= self.window]
        if others and self._keys is not None:
            query = key * (LARGEST_SUM / len(values))
            self._pending[frame_idx] = _Comparison(
                others=np.array(others),
                rows=np.array([self._rows[f] for f in others]),
                products=CpuCopy(_products(self._keys[:, : len(self._rows)], query)),
            )
        self._hold(frame_idx, key)
        for f, comparison in list(self._pending.items()):
            if (products := comparison.products.arrived()) is not None:
                self._settle(f, products)
        if self.forget:
            for f in [f for f in self._known if frame_idx - f > self.window]:
                del self._known[f]

    def missing(self, frame_idx: int, others: Sequence[int]) -> list[int]:
        """Find the frames whose similarity to a frame is not known.

        Args:
            frame_idx: the frame.
            others: the other frames.

        Returns:
            Those of `others` whose similarity is not known.
        """
        values = self._lookup(frame_idx, others)
        return [f for f, value in zip(others, values, strict=True) if value == UNKNOWN]

    def get(self, frame_idx: int, others: Sequence[int]) -> np.ndarray:
        """Return known similarities.

        Args:
            frame_idx: the frame.
            others: n other frames; their similarities must be known, see `missing`.

        Returns:
            Similarities [n].
        """
        values = self._lookup(frame_idx, others)
        assert not (values == UNKNOWN).any(), "ask for `missing` first"
        return values

    def _lookup(self, frame_idx: int, others: Sequence[int]) -> np.ndarray:
        if self._pending:
            for f in self._pending.keys() & {frame_idx, *others}:
                if f == frame_idx or frame_idx in self._pending[f].others:
                    self._settle(f, self._pending[f].products.wait())
        values = np.full(len(others), UNKNOWN, dtype=np.float32)
        distances = frame_idx - np.asarray(others, dtype=np.int64)
        row = self._known.get(frame_idx)
        if row is not None:
            older = (distances > 0) & (distances <= self.window)
            values[older] = row[distances[older] - 1]
        for i in np.flatnonzero((distances < 0) & (distances >= -self.window)).tolist():
            row = self._known.get(others[i])
            if row is not None:
                values[i] = row[-distances[i] - 1]
        return values

    def _settle(self, frame_idx: int, products: Tensor) -> None:
        """Store the similarities of a frame, whose products have arrived."""
        comparison = self._pending.pop(frame_idx)
        values = products.numpy()[comparison.rows] / np.float32(LARGEST_SUM)
        older = comparison.others < frame_idx
        self._row(frame_idx)[frame_idx - comparison.others[older] - 1] = values[older]
        for other, value in zip(comparison.others[~older].tolist(), values[~older], strict=True):
            self._row(other)[other - frame_idx - 1] = value

    def _row(self, frame_idx: int) -> np.ndarray:
        return self._known.setdefault(frame_idx, np.full(self.window, UNKNOWN, dtype=np.float32))

    def _hold(self, frame_idx: int, key: Tensor) -> None:
        """Store a key; it replaces the most distant one if the table is full."""
        if len(self._rows) > self.window:
            row = self._rows.pop(max(self._rows, key=lambda f: abs(f - frame_idx)))
        else:
            row = len(self._rows)
        held = 0 if self._keys is None else self._keys.shape[1]
        if row >= held:
            grown = key.new_empty(len(key), min(self.window + 1, max(8, 2 * row)), key.shape[1])
            if self._keys is not None:
                grown[:, :held] = self._keys
            self._keys = grown
        assert self._keys is not None
        self._keys[:, row] = key
        self._rows[frame_idx] = row


def _products(keys: Tensor, query: Tensor) -> Tensor:
    """Products [n], float32, of keys [parts, n, E] with a query [parts, E]."""
    with torch.autocast(keys.device.type, enabled=False):
        return torch.bmm(query[:, None], keys.transpose(1, 2))[:, 0].sum(dim=0, dtype=torch.float32)
