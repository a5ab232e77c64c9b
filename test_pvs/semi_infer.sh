#!/bin/sh
# Track the objects of SA-V's test set, one process per GPU, or one on the CPU.
set -eu

usage() {
    cat <<'TEXT'
usage: sh semi_infer.sh [--dry-run] [KEY=value ...] [options of test_pvs.infer ...]

  sh semi_infer.sh DATA=data/sav_test CHECKPOINT=sam-i2vpp_32gpu
  sh semi_infer.sh DATA=data/sav_val PROMPT=3c PROCESSES=2 --annotated-only

settings, as arguments or in the environment:
  DATA         folder with JPEGImages_24fps and Annotations_6fps  (data/sav_test)
  PROMPT       gm mask, bb box, 1c, 3c, <n>c clicks               (gm)
  CHECKPOINT   file, or name in checkpoints/                      (i2vpp-demo)
  OUT          folder of the masks                                (outputs/<name of DATA>_<PROMPT>)
  PROCESSES    on this machine                                    (one per GPU, or one on the CPU)
  PYTHON                                                          (python)

Works from any folder: paths that are given count from there, others from the clone. The same command goes on where a run was ended.
--dry-run prints the command and ends; `python -m test_pvs.infer --help` lists the options.
TEXT
}

. "$(dirname "$0")/settings.inc"
set -- "$PYTHON" -m test_pvs.infer --data "$DATA" --prompt "$PROMPT" --checkpoint "$CHECKPOINT" --output "$OUT" \
    ${PROCESSES:+--processes "$PROCESSES"} "$@"
run "$@"
