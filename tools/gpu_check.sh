#!/usr/bin/env bash
# All that needs a GPU, in less than nine minutes: the tests marked `gpu`, frames at 1024 and 512 pixels with 1, 5 and 20
# objects, plain and compiled, the ten longest kernels, and training steps with and without recomputed activations.
# Each part has a limit in seconds, after which it is stopped; the others still run. Reports and logs go to a folder.
#
#   tools/gpu_check.sh [FOLDER]    default: outputs/gpu_check
#
# PYTHON is an interpreter of the environment that `make install` made (.venv/bin/python).
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit
python=${PYTHON:-.venv/bin/python}
folder=${1:-outputs/gpu_check}
check='import sys, torch; sys.exit(None if torch.cuda.is_available() else "gpu_check.sh: PyTorch finds no GPU")'
"$python" -c "$check" || exit 2
mkdir -p "$folder" || exit

failed=()
part() {
    local name=$1 limit=$2 started=$SECONDS
    shift 2
    printf '\n== %s (at most %d s)\n' "$name" "$limit"
    timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$folder/$name.log" || failed+=("$name")
    printf '== %s: %d s\n' "$name" "$((SECONDS - started))"
}

frames=(--config i2vpp-infer,i2vpp-512 --objects 1,5,20 --device cuda --warmup 20 --frames 20)
part plain 90 "$python" tools/benchmark.py "${frames[@]}" --json "$folder/plain.json"
part kernels 30 "$python" tools/profile_kernels.py --config i2vpp-infer --device cuda
part training 60 "$python" tools/benchmark_training.py --image-size 1024 --checkpoint-activations both --device cuda \
    --warmup 1 --steps 3 --json "$folder/training.json"
part compiled 180 "$python" tools/benchmark.py "${frames[@]}" --compile --json "$folder/compiled.json"
part tests 160 "$python" -m pytest -q -p no:cacheprovider -m gpu tests

[[ ${#failed[@]} -eq 0 ]] && printf '\nAll parts ended well; see %s\n' "$folder" && exit
printf '\nFailed or stopped: %s; see %s\n' "${failed[*]}" "$folder"
exit 1
