"""What is compiled for a GPU, traced with tensors that have shapes and a CUDA device but no numbers: fake tensors.

How many graphs there are, that nothing breaks them, that new shapes need no further graph, and that outputs stay on the
device. What PyTorch's compiler makes of a graph needs a GPU, or at least its driver, and is not tested here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensorMode

from i2vpp.execution.compilation import CompiledRunner
from i2vpp.modeling.i2vpp import I2VPP, WIDTH
from i2vpp.structures import FrameFeatures
from test_pretended_cuda import small_model

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there, and the tests marked `gpu` use it")

CUDA = torch.device("cuda", 0)
SHAPES = ((1, 7, 8), (1, 12, 16), (2, 7, 8), (5, 12, 8), (3, 10, 16))
"""Of the step's inputs: objects, memories and pointers."""


class Graphs:
    """A backend of `torch.compile` that keeps the graphs and runs them as they are."""

    def __init__(self) -> None:
        self.graphs: list[fx.GraphModule] = []

    def __call__(self, graph: fx.GraphModule, _: list[Tensor]) -> Callable[..., Any]:
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture
def network() -> Iterator[I2VPP]:
    """A small network of fake tensors on CUDA, where there need not be a driver; autocast asks two questions."""
    torch._dynamo.reset()
    torch._C._ensureCUDADeviceGuardSet()
    model, mode = copy.deepcopy(small_model()), FakeTensorMode()
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
            patch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
            patch.setattr("i2vpp.execution.compilation.CudaGraphs", lambda function: function)
            with mode:
                yield model._apply(lambda tensor: mode.from_tensor(tensor).to(CUDA))
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        torch._dynamo.reset()


def features(runner: CompiledRunner) -> FrameFeatures:
    side = runner.model.image_size
    found = runner.encode(torch.zeros(1, 3, 3, side, side, device=CUDA))
    assert found.embedding.device == found.position.device == CUDA
    return found


def track(runner: CompiledRunner, frame: FrameFeatures, objects: int, memories: int, pointers: int) -> None:
    """The compiled step, with stacked memories; all outputs are on the device."""
    grid = frame.embedding.shape[-2:]
    stacked = [
        torch.zeros(objects, memories, 64, *grid, dtype=torch.bfloat16, device=CUDA),
        torch.zeros(objects, memories, *grid, dtype=torch.bool, device=CUDA),
        torch.zeros(objects, pointers, WIDTH, device=CUDA),
        *(torch.zeros(objects, count, device=CUDA) for count in (memories, memories, pointers, pointers)),
    ]
    step = runner._track_one if objects == 1 else runner._track_several
    for output in step(frame.embedding, frame.position, *stacked):
        assert output.device == CUDA
        assert len(output) == objects


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_three_graphs_serve_all_shapes(network: I2VPP) -> None:
    torch._dynamo.utils.counters.clear()
    backend = Graphs()
    runner = CompiledRunner(network, backend=backend)
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        frame = features(runner)
        for objects, memories, pointers in SHAPES:
            track(runner, frame, objects, memories, pointers)
    assert len(backend.graphs) == 3
    assert not torch._dynamo.utils.counters["graph_break"]
    operations = [str(node.target) for graph in backend.graphs for node in graph.graph.nodes]
    assert any("scaled_dot_product_attention" in name for name in operations)
    assert not {"item", "nonzero", "tolist", "cpu"} & set(operations)
