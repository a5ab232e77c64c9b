"""How a run is recorded beside what it makes; needs the standard library only, as scoring reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RUN_FOLDER = ".run"
"""Name of the folder in the output folder in which a run records how it makes its files."""


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level, with dots between the keys.

    Args:
        settings: of a run, as `run.json` has them.
        prefix: put before every key.

    Returns:
        The values by keys such as `model.selection.mode`.
    """
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        name = f"{prefix}{key}"
        flat.update(flat_settings(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat
