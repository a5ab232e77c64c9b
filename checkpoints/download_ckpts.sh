#!/bin/sh
# Fetch all published checkpoints into this folder. Needs: pip install "i2vpp[download]"
cd "$(dirname "$0")/.." && exec i2vpp download all "$@"
