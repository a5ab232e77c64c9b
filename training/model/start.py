"""Where the weights of a run come from."""

from __future__ import annotations

from i2vpp.checkpoint import import_image_model, load_checkpoint, load_parts
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.utils.notices import warn_user
from training.config import StartConfig
from training.model.initialise import initialise


def start(model: I2VPP, config: StartConfig, *, seed: int) -> None:
    """Initialise the network, and load over that what the config names.

    Raises:
        CheckpointError: a file is missing, unreadable or of another architecture.
    """
    initialise(model, seed=seed)
    if config.image_model is not None:
        import_image_model(model, config.image_model)
    if config.checkpoint is not None:
        trained_at = load_checkpoint(model, config.checkpoint).image_size
        if trained_at not in (None, model.image_size):
            sizes = f"image_size {trained_at}, and this run trains it at {model.image_size}"
            warn_user(f"{config.checkpoint} was trained at {sizes}")
    if config.heads is not None:
        load_parts(model, config.heads)
