#!/usr/bin/env python3
"""Segment objects through videos in a browser: another name of `i2vpp annotate`.

python tools/web_annotation_tool.py VIDEO_OR_FOLDER --output DIR
"""

from __future__ import annotations

import sys

from i2vpp.cli import main

if __name__ == "__main__":
    sys.exit(main(["annotate", *sys.argv[1:]]))
