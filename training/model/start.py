"""Where the weights of a run come from."""

from __future__ import annotations

from i2vpp.checkpoint import import_image_model, load_checkpoint, load_parts
from i2vpp.modeling.i2vpp import I2VPP
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
        load_checkpoint(model, config.checkpoint, image_size=model.image_size)
    if config.heads is not None:
        load_parts(model, config.heads)
