"""JSON from files that users write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """Return the content of a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not JSON or not UTF-8, it is nested too deeply, or it holds a number of thousands of digits.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error
