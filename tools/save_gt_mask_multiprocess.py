#!/usr/bin/env python3
"""The published name of `tools/save_gt_mask.py`, which works with several processes anyway."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `tools` is no installed package

from tools.save_gt_mask import main

if __name__ == "__main__":
    sys.exit(main())
