"""`<object>/<frame>.png`, black and white PNGs of one bit, as SA-V has them; objects may overlap.

An empty PNG says that the object is known to be absent; a frame without a PNG was not annotated, which readers take as
empty, too. Objects are named by their ids, with three digits.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np

from i2vpp.annotate.exchange.formats.base import Format, Writer
from i2vpp.annotate.storage.values import StoredMask
from i2vpp.utils.arrays import Mask


class SavWriter(Writer):
    """Writes PNGs of single objects."""

    def add(self, frame: int, masks: Mapping[int, StoredMask]) -> None:
        """Write the masks of a frame."""
        for obj_id, mask in masks.items():
            folder = self._folder / f"{obj_id:03d}"
            folder.mkdir(exist_ok=True)
            content = one_bit_png(mask.decode(*self._size))
            (folder / f"{self._footage.name(frame)}.png").write_bytes(content)  # `export` flushes all at once


def one_bit_png(mask: Mask) -> bytes:
    """Return the content of a black and white PNG of one bit.

    Pillow takes five times as long, as it turns bits into bytes and back, and an export has a file for each object on
    each frame.

    Args:
        mask: bool [H, W]; true is white.
    """
    height, width = mask.shape
    rows = np.pad(np.packbits(mask, axis=1), ((0, 0), (1, 0)))  # each begins with its filter: 0, none
    pack = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_RLE)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)  # grey of one bit, not interlaced
    chunks = ((b"IHDR", head), (b"IDAT", pack.compress(rows.tobytes()) + pack.flush()), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


SAV = Format(
    name="sav",
    title="SA-V PNGs",
    hint="a folder per object, a black and white PNG per frame",
    writer=SavWriter,
)
