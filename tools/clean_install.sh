#!/usr/bin/env bash
# Check that a wheel is complete: install it into a new environment that holds its declared dependencies and nothing
# else, and use it from another folder. The dependencies are symbolic links into the environment of PYTHON, which must
# hold them in versions that the wheel allows. So nothing is downloaded, and no second PyTorch (6 GB) is needed.
#
#   tools/clean_install.sh [WHEEL]    default: the one wheel in dist/
#
# PYTHON is an interpreter of the environment that `make install` made (.venv/bin/python).
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ $# -gt 0 ]]; then wheels=("$@"); else wheels=("$repo"/dist/i2vpp-*.whl); fi
if [[ ${#wheels[@]} -ne 1 || ! -f ${wheels[0]} ]]; then
    echo "clean_install.sh: expected exactly one wheel, got: ${wheels[*]}; run 'make wheel' first" >&2
    exit 2
fi
wheel=$(cd "$(dirname "${wheels[0]}")" && pwd)/$(basename "${wheels[0]}")
python=${PYTHON:-$repo/.venv/bin/python}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH PYTHONHOME
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$wheel"
"$python" - "$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" <<'PYTHON'
"""Link all packages that the i2vpp in the folder argv[1] requires, directly or not, from this environment into it."""

import sys
from importlib.metadata import distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement

target = Path(sys.argv[1])
(wheel,) = (found for found in distributions(path=[str(target)]) if found.name == "i2vpp")
waiting, seen = [(wheel, "")], set()
while waiting:
    package, extra = waiting.pop()
    for requirement in map(Requirement, package.requires or ()):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            needed = distribution(requirement.name)
            for name in {"", *requirement.extras}:
                if (needed.name, name) not in seen:
                    seen.add((needed.name, name))
                    waiting.append((needed, name))
            for part in {file.parts[0] for file in needed.files} - {"..", "__pycache__"}:
                if not (target / part).exists():
                    (target / part).symlink_to(needed.locate_file(part))
PYTHON

mkdir "$work/elsewhere"
cd "$work/elsewhere"
export PATH="$work/venv/bin:$PATH"
python -m pip --disable-pip-version-check check
i2vpp --help >/dev/null
python - "$work/venv" <<'PYTHON'
import sys
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

started = time.perf_counter()
import i2vpp
from i2vpp import build_i2vpp_video_predictor

seconds = time.perf_counter() - started
from i2vpp.weights.files import find_checkpoint
from i2vpp.config import load_config
from i2vpp.errors import CheckpointError

package = Path(i2vpp.__file__).resolve().parent
assert package.is_relative_to(Path(sys.argv[1]).resolve()), f"i2vpp came from {package}, not from the wheel"
assert (package / "py.typed").is_file(), "the wheel lacks py.typed"
names = sorted(path.stem for path in (package / "configs").glob("*.yaml"))
there = [name for name in ("hydra", "omegaconf", "torchvision", "pycocotools", "scipy", "submitit") if find_spec(name)]
assert not there, f"what only extras need is installed: {there}"
assert i2vpp.__version__ == version("i2vpp")
assert "i2vpp-256" in names, f"the wheel's configs are {names}"
for name in names:
    load_config(name)
try:
    find_checkpoint("i2vpp-demo")
except CheckpointError as error:
    assert "comes with the git repository" in str(error), error
else:
    raise AssertionError("i2vpp-demo was found: the wheel must hold no checkpoint")
assert seconds < 3, f"importing the predictor took {seconds:.1f} s after torch; at most 3 s are allowed"
print(f"i2vpp {version('i2vpp')} with torch {torch.__version__}: imported in {seconds:.2f} s, configs {', '.join(names)}")
PYTHON
! i2vpp demo --frames 3 -o "$work/demo" 2>"$work/refused" && grep -q -e --untrained "$work/refused" ||
    { echo "clean_install.sh: the demo ran without weights" >&2; exit 1; }
i2vpp demo --untrained --frames 3 -o "$work/demo"
[[ -n $(find "$work/demo" -type f | head -n 1) ]] || { echo "clean_install.sh: the demo wrote nothing" >&2; exit 1; }
clip=$(python -c 'import i2vpp; print(i2vpp.__path__[0])')/assets/bunny.mp4
python -m i2vpp track "$clip" -o "$work/track" --point 72,228 --untrained --config i2vpp-256 --max-frames 2 --quiet
[[ $(find "$work/track/masks" -name '*.png' | wc -l) -eq 3 ]] ||
    { echo "clean_install.sh: tracking without extras did not write three masks" >&2; exit 1; }
echo "$(basename "$wheel"): installs and works from a clean environment"
