"""What scripts for SAM 2 call on the predictor as a torch.nn.Module: it works, or an error names what replaces it.

docs/sam2.md lists all of it for readers; a test holds the two together.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from i2vpp.config import ALIASES, CONSTANTS, describe_constant, is_same
from i2vpp.errors import I2VPPError
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.utils.machine import parse_device

Module = TypeVar("Module", bound="Sam2Module")

BUILD = "build_i2vpp_video_predictor"

OF_THE_NETWORK = frozenset({
    "buffers", "children", "modules", "named_buffers", "named_children", "named_modules", "named_parameters",
    "parameters", "requires_grad_", "state_dict",
})  # fmt: skip
"""Methods of torch.nn.Module that are handed on to the network."""

REPLACED = {
    "load_state_dict": f"{BUILD}(config_file, ckpt_path)",
    "compile": f"{BUILD}(..., vos_optimized=True)",
    "forward": "add_new_points_or_box, add_new_mask and propagate_in_video",
    "propagate_in_video_preflight": "propagate_in_video, which needs no preparation",
    "load_first_frame": "init_stream() and its step(frame)",
    "add_new_prompt": "init_stream() and its add_new_points_or_box or add_new_mask",
    "track": "init_stream() and its step(frame)",
    "hidden_dim": "i2vpp.modeling.i2vpp.WIDTH",
    "_obj_id_to_idx": "inference_state.obj_ids.index(obj_id)",
    "_obj_idx_to_id": "inference_state.obj_ids[obj_idx]",
    "_get_obj_num": "len(inference_state.obj_ids)",
}
"""What there is in SAM 2's predictors and not here, and what to use in its place."""


class ReplacedError(I2VPPError, AttributeError):
    """An attribute of SAM 2's predictor that cannot be read or set here; the message names the replacement."""


class Sam2Module:
    """The part of torch.nn.Module that SAM 2's users call on a predictor.

    Device, dtype and mode are chosen when the predictor is built, and its weights are rounded for them. Asking for the
    same ones does nothing; asking for others raises I2VPPError, which names the argument to build with.
    """

    model: I2VPP

    @property
    def dtype(self) -> torch.dtype:
        """Data type of encoder, memory attention and memory encoder."""
        raise NotImplementedError

    @property
    def training(self) -> bool:
        """Whether the network is in training mode."""
        return self.model.training

    def eval(self: Module) -> Module:
        """Put the network into eval mode."""
        self.model.eval()
        return self

    def train(self: Module, mode: bool = True) -> Module:
        """Accept eval mode, and training mode if the network is in it."""
        if not mode:
            return self.eval()
        if not self.training:
            raise I2VPPError(f'the predictor was built in eval mode; build it with {BUILD}(..., mode="train")')
        return self

    def to(self: Module, *args: Any, **kwargs: Any) -> Module:
        """Accept the predictor's own device and dtype, with the arguments of torch.nn.Module.to."""
        for value in (*args, *kwargs.values()):
            if isinstance(value, torch.Tensor):
                self._accept(value.device).to(value.dtype)
            elif value is not None and not isinstance(value, (bool, torch.memory_format)):
                self._accept(value)
        return self

    def cuda(self: Module, device: int | str | torch.device = "cuda") -> Module:
        """See `to`."""
        return self._accept(device)

    def cpu(self: Module) -> Module:
        """See `to`."""
        return self._accept("cpu")

    def half(self: Module) -> Module:
        """See `to`."""
        return self._accept(torch.float16)

    def bfloat16(self: Module) -> Module:
        """See `to`."""
        return self._accept(torch.bfloat16)

    def float(self: Module) -> Module:
        """See `to`."""
        return self._accept(torch.float32)

    def _accept(self: Module, value: Any) -> Module:
        """Return the predictor, or raise I2VPPError if it is of another device or dtype than `value`."""
        if isinstance(value, torch.dtype):
            same, argument = value == self.dtype, f'dtype="{str(value).removeprefix("torch.")}"'
        else:
            device, own = parse_device(value), self.model.device
            same = device.type == own.type and device.index in (None, own.index)
            argument = f'device="{device}"'
        if not same:
            built = f"{str(self.dtype).removeprefix('torch.')} on {self.model.device}"
            raise I2VPPError(f"the predictor stays as it was built, {built}; build it with {BUILD}(..., {argument})")
        return self

    if not TYPE_CHECKING:  # a type checker should go on to report attributes that there are not

        def __getattr__(self, name: str) -> Any:
            """Hand some methods on to the network; say what replaces other attributes of SAM 2's predictor."""
            if name in OF_THE_NETWORK:
                return getattr(self.model, name)
            if (key := f"model.{name}") in CONSTANTS:
                return CONSTANTS[key].value
            replaced_by = REPLACED.get(name)
            if replaced_by is None:
                paths = (f"model.{name}", f"model.config.{_setting(name)}")
                replaced_by = next((f"predictor.{path}" for path in paths if self._find(path) is not None), None)
            if replaced_by is None:
                kind = type(self).__name__
                raise AttributeError(f"{kind!r} object has no attribute {name!r}", name=name, obj=self)
            raise ReplacedError(f"the predictor has no {name!r}: use {replaced_by}")

        def __setattr__(self, name: str, value: Any) -> None:
            """Set an attribute; refuse those of SAM 2's predictor that nothing reads, unless they stay as they are."""
            key, setting, part = f"model.{name}", _setting(name), self._find(f"model.{name}")
            now = CONSTANTS[key].value if key in CONSTANTS else self._find(f"model.config.{setting}")
            if now is not None:
                if is_same(value, now):
                    return
                shown = str(value).lower() if isinstance(value, (int, float)) else "..."
                how = f'build it with {BUILD}(..., hydra_overrides_extra=["model.{setting}={shown}"])'
                if key in CONSTANTS:
                    how = f"it {describe_constant(key)}"
            elif isinstance(part, (torch.nn.Module, torch.Tensor)):
                how = f"use predictor.model.{name}"
            elif name in REPLACED and not hasattr(type(self), name):
                how = f"use {REPLACED[name]}"
            else:
                super().__setattr__(name, value)
                return
            raise ReplacedError(f"setting {name!r} would have no effect on the predictor: {how}")

    def _find(self, path: str) -> Any:
        """Return what the predictor has at a path of attributes that begins with `model`; None if there is nothing."""
        if "model" not in vars(self) or "._" in path:
            return None
        try:
            return attrgetter(path)(self)
        except AttributeError:
            return None


def _setting(name: str) -> str:
    """Return the key below `model` of the setting that SAM 2 or the published code calls by a name."""
    return ALIASES.get(f"model.{name}", f"model.{name}").removeprefix("model.")
