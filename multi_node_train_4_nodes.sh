#!/bin/sh
# Train on 4 machines of 8 GPUs: run this on each of them, or once under srun.
set -eu

usage() {
    cat <<'TEXT'
usage: NODE_RANK=<0 to 3> MASTER_ADDR=<machine 0> sh multi_node_train_4_nodes.sh [--dry-run] [key=value ...]
       srun --nodes 4 --ntasks-per-node 1 --gpus-per-node 8 sh multi_node_train_4_nodes.sh [--dry-run] [key=value ...]

environment: NODE_RANK     number of this machine, from 0 on         (under srun: SLURM_NODEID)
             MASTER_ADDR   name or address of machine 0              (under srun: the first of the job)
             MASTER_PORT   a port that is free on machine 0          (29500)
             NODES         machines                                  (4; under srun: those of the job)
             GPUS          GPUs of each machine                      (8)
             CONFIG        recipe                                    (configs/i2vpp-train-32gpu.yaml)
             PYTHON        python
Works from any folder; paths count from the project's. --dry-run prints the command and ends.
TEXT
}

fail() {
    printf 'multi_node_train_4_nodes.sh: %s\n\n' "$1" >&2
    usage >&2
    exit 2
}

case ${1:-} in -h | --help) usage && exit ;; esac

if [ -n "${SLURM_JOB_NODELIST:-}" ]; then
    NODES=${NODES:-${SLURM_NNODES:-4}}
    NODE_RANK=${NODE_RANK:-${SLURM_NODEID:-}}
    [ -n "${MASTER_ADDR:-}" ] || MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
fi
NODES=${NODES:-4} GPUS=${GPUS:-8} CONFIG=${CONFIG:-configs/i2vpp-train-32gpu.yaml}
[ -n "${MASTER_ADDR:-}" ] || fail "MASTER_ADDR is not set: the name or address of machine 0"
[ -n "${NODE_RANK:-}" ] || fail "NODE_RANK is not set: which of the $NODES machines is this?"
case $NODE_RANK in *[!0-9]*) fail "NODE_RANK must be a number from 0 to $((NODES - 1)); got '$NODE_RANK'" ;; esac
[ "$NODE_RANK" -lt "$NODES" ] || fail "NODE_RANK must be a number from 0 to $((NODES - 1)); got '$NODE_RANK'"

export NODES NODE_RANK MASTER_ADDR GPUS CONFIG
exec sh "$(dirname "$0")/train.sh" "$@"
