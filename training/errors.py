"""What can end a training run."""

from __future__ import annotations

from i2vpp.errors import I2VPPError


class TrainingError(I2VPPError, RuntimeError):
    """The run cannot go on; the message says what happened and what to do."""
