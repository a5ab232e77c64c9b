#!/bin/sh
# Score what semi_infer.sh has tracked.
set -eu

usage() {
    cat <<'TEXT'
usage: sh semi_eval.sh [--dry-run] [KEY=value ...] [options of sav_dataset/sav_evaluator.py ...]

  sh semi_eval.sh DATA=data/sav_test
  sh semi_eval.sh DATA=data/sav_val PROMPT=3c --strict

settings, as arguments or in the environment; give those that semi_infer.sh was given:
  DATA         folder with Annotations_6fps            (data/sav_test)
  PROMPT       gm, bb, 1c, 3c, <n>c                    (gm)
  OUT          folder of the masks                     (outputs/<name of DATA>_<PROMPT>)
  GT           folder of the true masks                (<DATA>/Annotations_6fps)
  PROCESSES    that score                              (one per core)
  PYTHON                                               (python)

Writes scores.json and scores.csv to OUT, unless --json and --csv say otherwise, and names what it wrote.
--rule chooses the frames that count for an object that is not always there (published).
Works from any folder: paths that are given count from there, others from the clone. --dry-run prints the
command and ends.
TEXT
}

. "$(dirname "$0")/settings.inc"
set -- "$PYTHON" -m sav_dataset.sav_evaluator --annotations "${GT:-$DATA/Annotations_6fps}" --predictions "$OUT" \
    --json "$OUT/scores.json" --csv "$OUT/scores.csv" ${PROCESSES:+--processes "$PROCESSES"} "$@"
run "$@"
