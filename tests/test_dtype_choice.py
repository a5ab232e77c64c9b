"""Which data type is chosen for a device, and that float16 keeps its range, which ends at 65504."""

from __future__ import annotations

import platform
import sys
from importlib.resources import as_file, files
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from i2vpp.build_i2vpp import build_i2vpp_video_predictor, choose_dtype
from i2vpp.commands.demo import CLIP, PROMPTS
from i2vpp.utils.machine import cpu_computes_bfloat16
from models import iou, make_predictor
from operation_counts import tensors_in
from pretended_cuda import PretendedTensor, pretended_cuda

HEADROOM = 4
LARGEST = torch.finfo(torch.float16).max / HEADROOM


pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there, with a capability of its own")


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((6, 1), torch.float32),  # GTX 10
        ((7, 0), torch.float16),  # V100
        ((7, 5), torch.float16),  # T4, RTX 20
        ((8, 0), torch.bfloat16),  # A100
        ((8, 9), torch.bfloat16),  # RTX 40
        ((9, 0), torch.bfloat16),  # H100
    ],
)
def test_the_fastest_dtype_that_a_gpu_has_itself(capability: tuple[int, int], dtype: torch.dtype) -> None:
    with pretended_cuda(capability=capability):
        assert torch.cuda.is_bf16_supported()  # by emulation, too
        assert choose_dtype(None, torch.device("cuda:1")) == dtype
        assert choose_dtype("float32", torch.device("cuda")) == torch.float32
        assert choose_dtype("auto", torch.device("cuda")) == dtype
        assert choose_dtype(None, torch.device("cpu")) == torch.float32


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bfloat16_where_the_cpu_has_it(
    has: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("i2vpp.build_i2vpp.cpu_computes_bfloat16", lambda: has)
    assert choose_dtype("auto", torch.device("cpu")) == dtype
    assert choose_dtype("auto", torch.device("mps")) == torch.float32
    assert make_predictor(dtype="auto").dtype == dtype


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="PyTorch tells it of x86 processors"
)
def test_the_instructions_are_those_that_pytorch_finds() -> None:
    found = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert cpu_computes_bfloat16() == found


class LargestNumbers(TorchDispatchMode):
    """Notes, in its `with` block, the largest number that each operator gives in float16; NaN counts as infinite.

    -inf is left out: it is the bias of keys that are not attended to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_operator: dict[str, float] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if any(entry.alias_info is not None and not entry.alias_info.is_write for entry in func._schema.returns):
            return out  # a view computes nothing, and may be of memory that is not written yet
        for tensor in tensors_in(out):
            if not isinstance(tensor, PretendedTensor):
                continue  # on the CPU, where a copy holds garbage until it has arrived
            x = tensor.values
            if x.dtype == torch.float16 and x.numel() and not name.startswith(("empty", "new_empty")):
                largest = float(x.float().nan_to_num(torch.inf, torch.inf, 0).abs().max())
                self.by_operator[name] = max(largest, self.by_operator.get(name, 0.0))
        return out


def track(device: str) -> torch.Tensor:
    """Logits of an object of the demo on its first frames, by the demo checkpoint."""
    small = ["model.image_size=256"]
    predictor = build_i2vpp_video_predictor(None, "i2vpp-demo", device, hydra_overrides_extra=small)
    prompt = PROMPTS[0]
    with as_file(files("i2vpp") / "assets" / CLIP) as clip, predictor.init_state(str(clip)) as state:
        predictor.add_new_points_or_box(
            state, prompt.frame_idx, prompt.obj_id, points=prompt.points or None, labels=prompt.labels or None,
            box=prompt.box,
        )  # fmt: skip
        results = list(predictor.propagate_in_video(state, max_frame_num_to_track=2, progress=False))
    return torch.stack([result.masks.cpu() for result in results])


@pytest.mark.slow
def test_float16_keeps_its_range() -> None:
    """On a T4, with its autocast; fused attention is one operation, whose logits the kernels of CUDA add in float32."""
    with pretended_cuda(capability=(7, 5)), LargestNumbers() as seen:
        rough = track("cuda")
    assert seen.by_operator.keys() >= {"convolution", "addmm", "bmm"}  # bmm: the similarities of frames
    assert {name: x for name, x in seen.by_operator.items() if x > LARGEST} == {}
    assert iou(rough, track("cpu")) > 0.98


def test_what_leaves_the_range_would_be_noticed() -> None:
    with pretended_cuda(), LargestNumbers() as seen:
        torch.full((2,), 300.0).to("cuda").half().square()
        torch.zeros(1, dtype=torch.float16).to("cuda").log()
    assert seen.by_operator["pow"] == torch.inf
    assert seen.by_operator["log"] == 0
