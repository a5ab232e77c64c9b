"""The predictor of a combination, and what is said of it in every result."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch

from benchmarking.cases import BenchmarkError, Case, Settings
from i2vpp.build_i2vpp import build_i2vpp_video_predictor
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.utils.machine import device_name


def build(case: Case, settings: Settings) -> I2VPPVideoPredictor:
    """Build an untrained predictor, the same one in every process, with the threads that the settings ask for.

    Raises:
        BenchmarkError: it should be compiled, and the library cannot.
        I2VPPError: of the library.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    options: dict[str, Any] = {}
    if settings.compiled:
        if "vos_optimized" not in inspect.signature(build_i2vpp_video_predictor).parameters:
            raise BenchmarkError("--compile: this checkout's build_i2vpp_video_predictor has no vos_optimized")
        options["vos_optimized"] = True
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*called without a checkpoint", UserWarning)  # cost depends on sizes only
        return build_i2vpp_video_predictor(
            case.config, device=case.device, hydra_overrides_extra=case.overrides(settings), dtype=case.dtype, **options
        )


def describe(predictor: I2VPPVideoPredictor, case: Case, settings: Settings) -> dict[str, Any]:
    """Return what tells combinations apart, and where they ran."""
    return {
        "config": case.config,
        "overrides": list(settings.overrides),
        "image_size": predictor.image_size,
        "device": str(predictor.device),
        "device_name": device_name(predictor.device),
        "dtype": str(predictor.dtype).removeprefix("torch."),
        "objects": case.objects,
        "compiled": settings.compiled,
        "threads": torch.get_num_threads(),
    }
