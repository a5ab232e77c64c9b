"""What can be wrong with training data."""

from __future__ import annotations

from i2vpp.errors import I2VPPError


class DataError(I2VPPError):
    """One item of a dataset (a file, an annotation) is missing, broken or does not fit; the message names the file."""


class NoDataError(I2VPPError):
    """Nothing is left to train on; the message says what was looked for, where, and how many items were skipped."""
