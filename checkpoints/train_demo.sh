#!/bin/sh
# Trains checkpoints/i2vpp-demo.pt from nothing but data and a teacher; see checkpoints/i2vpp-demo.md. Every part can be
# interrupted: the same command goes on where it stopped.
#
#   I2VPP_DATA=<folder> TEACHER=<encoder.onnx> sh checkpoints/train_demo.sh
#
# I2VPP_DATA holds davis16/, ecssd/, coco128/, more/, sa1b_like/ and weights/sam2_tiny_heads.pt (docs/training.md). On a GPU:
# SIZE=512 EMBED_EVERY=2 STUDENT="--steps 6000 --batch-size 64 --workers 12" and TRAIN="model.image_size=512 data.workers=12".
# On a CPU without instructions for bfloat16: TRAIN=run.precision=float32. STUDENT="--steps 6000 --mask-loss 0.5" adds the
# loss through the decoder.
set -eu
cd "$(dirname "$0")/.."
: "${I2VPP_DATA:?set it to the folder of the data}" "${TEACHER:?set it to the ONNX file of the teacher}"
PYTHON=${PYTHON:-python3}
OUT=${OUT:-outputs/i2vpp-demo}
SIZE=${SIZE:-256}
PARTS=${PARTS:-}  # such as 15m: the weights also in parts of that size, for `cat i2vpp-demo.pt.* >i2vpp-demo.pt`
export I2VPP_DATA
davis=$I2VPP_DATA/davis16

# 1. The teacher's embeddings of the photos and of some frames of the training sequences, but for those held out.
heldout=training/txt/heldout_photos.txt
photos="duts_tr500 coco_mval pascal_coseg bsds500_regions grabcut_berkeley feral_cats ccp_clothing weizmann_horse"
# shellcheck disable=SC2086
$PYTHON -m training.distillation.teacher --model "$TEACHER" --out "$OUT/embeddings" --exclude $heldout \
    --images "$I2VPP_DATA/ecssd/images" "$I2VPP_DATA/coco128/images" $(printf "$I2VPP_DATA/more/%s/images " $photos)
grep -v -x -F -f training/txt/davis16_heldout.txt "$davis/ImageSets/train.txt" | sed "s,^,$davis/JPEGImages/480p/," |
    xargs $PYTHON -m training.distillation.teacher --model "$TEACHER" --out "$OUT/embeddings" \
        --every "${EMBED_EVERY:-8}" --images

# 2. The image encoder learns them; then encoder, prompt encoder and mask decoder learn boxes and clicks on photos.
# shellcheck disable=SC2086
$PYTHON -m training.distillation.student --embeddings "$OUT/embeddings" --heads "$I2VPP_DATA/weights/sam2_tiny_heads.pt" \
    --image-size "$SIZE" --data "$I2VPP_DATA" --out "$OUT/encoder.pt" ${STUDENT:---steps 6000}
# shellcheck disable=SC2086
$PYTHON -m training.train -c i2vpp-demo-photos run.folder="$OUT/photos" start.checkpoint="$OUT/encoder.pt" ${TRAIN:-}

# 3. The memory learns to follow objects; then the temporal integrator with it; then everything; at last photos and
# clips at 512 px.
# shellcheck disable=SC2086
$PYTHON -m training.train -c i2vpp-demo run.folder="$OUT/memory" start.checkpoint="$OUT/photos/checkpoint.pt" ${TRAIN:-}
# shellcheck disable=SC2086
$PYTHON -m training.train -c i2vpp-demo-tune run.folder="$OUT/tune" start.checkpoint="$OUT/memory/best.pt" ${TRAIN:-}
# shellcheck disable=SC2086
$PYTHON -m training.train -c i2vpp-demo-tune run.folder="$OUT/all" start.checkpoint="$OUT/tune/best.pt" \
    run.max_steps=380 "optimizer.freeze=[]" ${TRAIN:-}
# shellcheck disable=SC2086
$PYTHON -m training.train -c i2vpp-demo-photos-512 run.folder="$OUT/large_photos" start.checkpoint="$OUT/all/best.pt" ${TRAIN:-}
# shellcheck disable=SC2086
$PYTHON -m training.train -c i2vpp-demo-512 run.folder="$OUT/large" start.checkpoint="$OUT/large_photos/checkpoint.pt" ${TRAIN:-}

# 4. Small weights, and their scores on sequences that none of this has seen.
$PYTHON -m training.export "$OUT/large/best.pt" "$OUT/i2vpp-demo.pt" --dtype bfloat16 \
    --card licence="research and demonstration only, not commercial" model_card="checkpoints/i2vpp-demo.md"
if [ -n "$PARTS" ]; then
    split -d -b "$PARTS" "$OUT/i2vpp-demo.pt" "$OUT/i2vpp-demo.pt."
fi
for prompt in gm bb 3c 1c; do
    $PYTHON tools/vos_inference.py --dataset davis2016 --data "$davis" --prompt $prompt \
        --checkpoint "$OUT/i2vpp-demo.pt" --output "$OUT/masks_$prompt"
    $PYTHON sav_dataset/sav_evaluator.py --annotations "$davis/Annotations/480p" --predictions "$OUT/masks_$prompt" --merge-objects \
        --list "$davis/ImageSets/val.txt" --json "$OUT/$prompt.json" --plots "$OUT/plots_$prompt" --images "$davis/JPEGImages/480p"
done
