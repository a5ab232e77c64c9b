"""Photos with a palette PNG of object ids each."""

from __future__ import annotations

from training.dataset.image_mask import ImageMaskPairs
from training.dataset.palette import read_masks


class PaletteImages(ImageMaskPairs):
    """Images and palette PNGs of the same names in two folders; pixel values are object ids.

    0 is background or an object without a label: only labelled objects are drawn, and the mask of each is
    complete, so photos that are labelled in part can be trained on. Of pixels of 255 it is not known whether they
    belong to a labelled object: losses leave them out.

    Args:
        images: folder of images.
        annotations: folder of PNGs; None: `masks` beside `images`.
        include: see `FileSource`, as for the other arguments.

    Raises:
        NoDataError: a folder is missing.
        DataError: two images, or two PNGs, have one name.
    """

    read = staticmethod(read_masks)
