#!/bin/sh
# Trains the next version of checkpoints/i2vpp-demo.pt from MobileSAM, the version before it and small public data; see
# checkpoints/i2vpp-demo.md. Every part can be interrupted: the same command goes on where it stopped.
#
#   I2VPP_DATA=<folder> IMAGE_MODEL=<mobile_sam.pt> BEFORE=<i2vpp-demo.pt> sh checkpoints/train_demo.sh
#
# docs/training.md says what I2VPP_DATA holds and where the other two come from. On a GPU: TRAIN="data.workers=12". On two
# CPU cores: TRAIN="--num-gpus 2 run.device=cpu" PROCESSES=2 OMP_NUM_THREADS=1. On a CPU without instructions for bfloat16:
# TRAIN=run.precision=float32 DTYPE=float32.
set -eu
cd "$(dirname "$0")/.."
: "${I2VPP_DATA:?set it to the folder of the data}" "${IMAGE_MODEL:?set it to mobile_sam.pt or tinysam.pth}"
: "${BEFORE:?set it to the version before, such as checkpoints/i2vpp-demo.pt}"
PYTHON=${PYTHON:-python3}
OUT=${OUT:-outputs/i2vpp-demo}
PROCESSES=${PROCESSES:-1}  # of the scores
DTYPE=${DTYPE:-bfloat16}   # of the exchange and the scores
PARTS=${PARTS:-}  # such as 15m: the weights also in parts of that size, for `cat i2vpp-demo.pt.* >i2vpp-demo.pt`
export I2VPP_DATA
davis=$I2VPP_DATA/davis16

# 1. Begin as the image model.
[ -e "$OUT/start.pt" ] || $PYTHON -m training.warm_start "$IMAGE_MODEL" --images "$I2VPP_DATA/ecssd/images" \
    --image-size 512 -o "$OUT/start.pt"

# 2. The version before it gets that trunk.
[ -e "$OUT/replaced.pt" ] || $PYTHON -m training.replace_trunk "$BEFORE" --trunk "$OUT/start.pt" --steps 200 --dtype "$DTYPE" \
    --images "$I2VPP_DATA/more/bsds500_regions/images" "$I2VPP_DATA/more/duts_tr500/images" \
    --videos "$davis/JPEGImages/480p" --include "$davis/ImageSets/train.txt" \
    --exclude training/txt/heldout_photos.txt training/txt/davis16_heldout.txt -o "$OUT/replaced.pt"

# 3. Everything but the trunk learns, on clips and photos.
# shellcheck disable=SC2086
$PYTHON -m training.train -c i2vpp-demo run.folder="$OUT/all" start.checkpoint="$OUT/replaced.pt" ${TRAIN:-}

# 4. Small weights, and their scores on sequences that none of this has seen.
$PYTHON -m training.export "$OUT/all/checkpoint.pt" "$OUT/i2vpp-demo.pt" --dtype bfloat16 \
    --card licence="research and demonstration only, not commercial" model_card="checkpoints/i2vpp-demo.md"
if [ -n "$PARTS" ]; then
    split -d -b "$PARTS" "$OUT/i2vpp-demo.pt" "$OUT/i2vpp-demo.pt."
fi
for prompt in gm bb 3c 1c; do
    $PYTHON tools/vos_inference.py --dataset davis2016 --data "$davis" --prompt $prompt \
        --checkpoint "$OUT/i2vpp-demo.pt" --dtype "$DTYPE" --processes "$PROCESSES" --output "$OUT/masks_$prompt"
    $PYTHON sav_dataset/sav_evaluator.py --annotations "$davis/Annotations/480p" --predictions "$OUT/masks_$prompt" --merge-objects \
        --list "$davis/ImageSets/val.txt" --json "$OUT/$prompt.json" --plots "$OUT/plots_$prompt" --images "$davis/JPEGImages/480p"
done
