"""`i2vpp.json`, which says all that a runtime in any language must know beside the graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from i2vpp import __version__
from i2vpp.checkpoint import CheckpointInfo
from i2vpp.config import ModelConfig
from i2vpp.export.graphs import Graph, Port
from i2vpp.export.i2vpp_onnx import FORMAT
from i2vpp.memory.selection import GLOBAL_POOL, LOCAL_POOL, build_selector
from i2vpp.session.frames import MEAN, STD
from i2vpp.session.records import DRAWN_LOGIT
from i2vpp.structures import ABSENT_LOGIT
from i2vpp.tracking import PREVIOUS_LOGIT_LIMIT, SHOWN_SHARE, SMALL_AREA
from i2vpp.utils.files import file_sha256

NAME = "i2vpp.json"


def describe_checkpoint(info: CheckpointInfo, licence: str) -> dict[str, Any]:
    """Return the section `checkpoint`.

    Args:
        info: the checkpoint.
        licence: licence of its weights.

    Returns:
        Its file name, SHA-256, licence and card.
    """
    return {
        "file": info.path.name,
        "sha256": file_sha256(info.path),
        "licence": licence,
        "card": dict(info.card),
    }


def describe(
    config: ModelConfig,
    graphs: Sequence[Graph],
    files: Mapping[str, str],
    *,
    checkpoint: Mapping[str, Any],
    written: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the manifest of an export.

    Args:
        config: config of the network.
        graphs: the graphs.
        files: file name of each graph.
        checkpoint: section of `describe_checkpoint`.
        written: how the graphs were written: `file_format`, `precision`, `opset`.

    Returns:
        What `i2vpp.json` holds.
    """
    selection = config.selection
    return {
        "format": FORMAT,
        "i2vpp": __version__,
        "torch": torch.__version__,
        **written,
        "checkpoint": dict(checkpoint),
        "image_size": config.image_size,
        "mean": list(MEAN),
        "std": list(STD),
        "selection": {
            **asdict(selection),
            "window": build_selector(selection).window,
            "global_pool": GLOBAL_POOL,
            "local_pool": LOCAL_POOL,
        },
        "constants": {
            "absent_logit": ABSENT_LOGIT,
            "drawn_logit": DRAWN_LOGIT,
            "previous_logit_limit": PREVIOUS_LOGIT_LIMIT,
            "shown_share": SHOWN_SHARE,
            "small_area": SMALL_AREA,
        },
        "graphs": {
            graph.name: {
                "file": files[graph.name],
                "inputs": _ports(graph.inputs()),
                "outputs": _ports(graph.outputs()),
            }
            for graph in graphs
        },
    }


def _ports(ports: Sequence[Port]) -> list[dict[str, Any]]:
    return [{"name": port.name, "dtype": "float32", "shape": list(port.shape)} for port in ports]
