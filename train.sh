#!/bin/sh
# Train on the GPUs of this machine by the published recipe.
set -eu

usage() {
    cat <<'TEXT'
usage: sh train.sh [--dry-run] [options of training.train] [key=value ...]

  sh train.sh                                    8 GPUs, or as many as there are
  GPUS=2 sh train.sh run.folder=outputs/mine     2 GPUs, another folder
  sh train.sh -c i2vpp-smoke --num-gpus 0        another recipe

environment: CONFIG (configs/i2vpp-train.yaml), GPUS, PYTHON (python); for several machines, on each of them, NODES,
NODE_RANK, MASTER_ADDR and MASTER_PORT (29500), see multi_node_train_4_nodes.sh.
Works from any folder; paths count from the project's. --dry-run prints the command and ends.
`python -m training.train --help` lists the options, and prints the plan of a run with its own --dry-run.
TEXT
}

dry_run=0
for word in "$@"; do # takes --dry-run out of the arguments
    shift
    case $word in
    -h | --help) usage && exit ;;
    --dry-run) dry_run=1 ;;
    *) set -- "$@" "$word" ;;
    esac
done

cd "$(dirname "$0")"
python=${PYTHON:-python}
if [ -z "${GPUS:-}" ]; then
    GPUS=$("$python" -c 'import torch; print(min(8, torch.cuda.device_count()))' 2>/dev/null) || {
        echo "train.sh: cannot count GPUs: '$python' has no PyTorch; set PYTHON or GPUS" >&2
        exit 2
    }
fi
config=${CONFIG:-configs/i2vpp-train.yaml}
if [ "${NODES:-1}" -gt 1 ]; then
    set -- -m torch.distributed.run --nnodes "$NODES" --node-rank "$NODE_RANK" --nproc-per-node "$GPUS" \
        --master-addr "$MASTER_ADDR" --master-port "${MASTER_PORT:-29500}" -m training.train -c "$config" "$@"
else # options that were given come later and win
    set -- -m training.train -c "$config" --use-cluster 0 --num-nodes 1 --num-gpus "$GPUS" "$@"
fi
set -- "$python" "$@"

if [ "$dry_run" = 1 ]; then
    for word in "$@"; do # quoted where the shell needs it
        case $word in
        '' | *[!A-Za-z0-9_./:=,+@%-]*) printf "'%s' " "$(printf %s "$word" | sed "s/'/'\\\\''/g")" ;;
        *) printf '%s ' "$word" ;;
        esac
    done
    echo
    exit
fi
exec "$@"
