#!/bin/sh
# Fetch all published checkpoints into this folder. Needs, in a clone: pip install ".[download]"
cd "$(dirname "$0")/.." && exec i2vpp download all "$@"
