"""Build a source from its config."""

from __future__ import annotations

from pathlib import Path

from i2vpp.data.files import read_items
from i2vpp.errors import ConfigError, NoDataError
from training.config import SourceConfig
from training.dataset.clips import Source
from training.dataset.coco import CocoImages
from training.dataset.file_source import FileSource
from training.dataset.image_mask import ImageMaskPairs
from training.dataset.palette import PaletteVideos
from training.dataset.palette_image import PaletteImages
from training.dataset.sa1b import Sa1bImages
from training.dataset.sav import SavVideos
from training.synthetic.procedural import ProceduralVideos

PROCEDURAL = "procedural"
FILE_SOURCES: dict[str, type[FileSource]] = {
    "sav": SavVideos,
    "sa1b": Sa1bImages,
    "palette": PaletteVideos,
    "coco": CocoImages,
    "image_mask": ImageMaskPairs,
    "palette_image": PaletteImages,
}
KINDS = (*FILE_SOURCES, PROCEDURAL)


def build_source(name: str, config: SourceConfig, *, seed: int = 0) -> Source:
    """Build the source that a config describes.

    Args:
        name: name of the source, for messages and counts.
        config: see `SourceConfig`; paths may start with `~` and are relative to the working folder.
        seed: seed of procedural videos; another seed gives other videos.

    Raises:
        ConfigError: an unknown kind, or no folder of images.
        NoDataError: a folder is missing, names to include are missing, or no item is left.
        DataError: a list or the one annotation file of a source cannot be read.
    """
    key = f"data.sources.{name}"
    if config.kind not in KINDS:
        raise ConfigError(f"{key}.kind must be one of {', '.join(KINDS)}; got {config.kind!r}")
    if config.kind == PROCEDURAL:
        if config.length < 1:
            raise ConfigError(f"{key}.length must be at least 1; got {config.length}")
        return ProceduralVideos(config.length, num_frames=config.clip.num_frames, seed=seed, name=name)
    if config.images is None:
        raise ConfigError(f"{key}.images is not set; sources of kind {config.kind} need a folder")
    source = FILE_SOURCES[config.kind](
        Path(config.images).expanduser(),
        Path(config.annotations).expanduser() if config.annotations else None,
        include=_items(config.include),
        exclude=_items(config.exclude) or frozenset(),
        name=name,
    )
    if not len(source):
        said = ", ".join(
            f"{k} {v}" for k in ("images", "annotations", "include", "exclude") if (v := getattr(config, k))
        )
        raise NoDataError(f"source {name!r} of kind {config.kind} has no item: {said}")
    return source


def _items(path: str | None) -> frozenset[str] | None:
    return read_items(Path(path).expanduser()) if path else None
