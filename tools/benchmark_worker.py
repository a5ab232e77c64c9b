"""One combination in a process of its own; started by tools/benchmark.py with the checkout that it measures in front.

The command line is three paths: the checkout, the request and the reply (JSON files).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from benchmarking.cases import BenchmarkError, Case, Settings
from benchmarking.frame_cost import measure, num_steps
from benchmarking.streams import measure_stream
from tqdm import tqdm

import i2vpp
from i2vpp.errors import I2VPPError

EXIT_FAILED = 1


def main(checkout: str, request: str, reply: str) -> int:
    """Measure what the file `request` asks for and write the result to the file `reply`."""
    asked = json.loads(Path(request).read_text(encoding="utf-8"))
    try:
        result = run(Path(checkout), asked)
    except I2VPPError as error:
        print(f"benchmark.py: error: {error}", file=sys.stderr)
        return EXIT_FAILED
    Path(reply).write_text(json.dumps(result), encoding="utf-8")
    return 0


def run(checkout: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Measure one combination of the library that lies in `checkout`.

    Raises:
        I2VPPError: of the library, or another one than that of `checkout` was imported.
    """
    imported = Path(i2vpp.__file__ or "").resolve().parent.parent
    if imported != checkout.resolve():
        raise BenchmarkError(f"i2vpp was imported from {imported}, not from {checkout}")
    case, settings = Case(**asked["case"]), Settings(**asked["settings"])
    job, total = (measure, num_steps(settings))
    if settings.video_lengths:
        job, total = (measure_stream, settings.video_lengths[-1])
    with tqdm(total=total, desc=asked["label"], unit="step", leave=False) as bar:
        return job(case, settings, bar.update)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
