"""Promptable video segmentation with SAM-I2V++: click, box or mask any object, get its mask on every frame.

    from i2vpp import build_i2vpp_video_predictor

`import i2vpp` itself imports neither PyTorch nor anything else: a public name is imported when it is first used.
"""

TYPE_CHECKING = False  # type checkers take it for True; `typing`, which has the same constant, takes time to import
if TYPE_CHECKING:
    from i2vpp.automatic_mask_generator import I2VPPAutomaticMaskGenerator
    from i2vpp.build_i2vpp import build_i2vpp_image_predictor, build_i2vpp_video_predictor
    from i2vpp.detections import prompts_from_detector, track_detections
    from i2vpp.discovery import ObjectDiscovery, track_everything
    from i2vpp.errors import (
        CheckpointError,
        CompilationError,
        ConfigError,
        FrameDecodeError,
        I2VPPError,
        I2VPPWarning,
        PromptError,
        SessionError,
        UntrainedWarning,
        VideoError,
    )
    from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
    from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
    from i2vpp.session.camera import Camera
    from i2vpp.session.state import InferenceState
    from i2vpp.stream import StreamSession
    from i2vpp.structures import FrameResult

__version__ = "0.2.0.dev0"  # the only place: pyproject.toml reads it from here

__all__ = [
    "Camera",
    "CheckpointError",
    "CompilationError",
    "ConfigError",
    "FrameDecodeError",
    "FrameResult",
    "I2VPPAutomaticMaskGenerator",
    "I2VPPError",
    "I2VPPImagePredictor",
    "I2VPPVideoPredictor",
    "I2VPPWarning",
    "InferenceState",
    "ObjectDiscovery",
    "PromptError",
    "SessionError",
    "StreamSession",
    "UntrainedWarning",
    "VideoError",
    "__version__",
    "build_i2vpp_image_predictor",
    "build_i2vpp_video_predictor",
    "prompts_from_detector",
    "track_detections",
    "track_everything",
]

# Modules of the names that `i2vpp.errors` does not define. The function `build_i2vpp` is not among them: as an
# attribute of the package that name is the module `i2vpp.build_i2vpp`.
_MODULES = {
    "Camera": "i2vpp.session.camera",
    "FrameResult": "i2vpp.structures",
    "I2VPPAutomaticMaskGenerator": "i2vpp.automatic_mask_generator",
    "I2VPPImagePredictor": "i2vpp.i2vpp_image_predictor",
    "I2VPPVideoPredictor": "i2vpp.i2vpp_video_predictor",
    "InferenceState": "i2vpp.session.state",
    "ObjectDiscovery": "i2vpp.discovery",
    "StreamSession": "i2vpp.stream",
    "build_i2vpp_image_predictor": "i2vpp.build_i2vpp",
    "build_i2vpp_video_predictor": "i2vpp.build_i2vpp",
    "prompts_from_detector": "i2vpp.detections",
    "track_detections": "i2vpp.detections",
    "track_everything": "i2vpp.discovery",
}

if not TYPE_CHECKING:  # a type checker would take any name for one that this function finds

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module  # noqa: PLC0415 - not needed by those who ask for the version only

        value = globals()[name] = getattr(import_module(_MODULES.get(name, "i2vpp.errors")), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
