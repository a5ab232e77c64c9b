"""What is compiled for a GPU, traced with tensors that have shapes and a CUDA device but no numbers: fake tensors.

How many graphs there are, that nothing breaks them, that new shapes need no further graph, and that outputs stay on the
device. PyTorch's compiler then writes Triton kernels for a device that only says what it is (`H100`), without a driver.
Whether the code runs, and how fast, needs a GPU.
"""

from __future__ import annotations

import copy
import importlib.util
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

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


H100 = SimpleNamespace(
    name="H100", major=9, minor=0, gcnArchName="", is_integrated=0, multi_processor_count=132, warp_size=32,
    total_memory=80 * 2**30, L2_cache_size=50 * 2**20, regs_per_multiprocessor=2**16, max_threads_per_block=1024,
    max_threads_per_multi_processor=2048, shared_memory_per_block=48 * 2**10, shared_memory_per_block_optin=227 * 2**10,
)  # fmt: skip
"""What PyTorch and Triton ask of a device."""


class Lowered(Exception):
    """The code of a graph is complete; loading it would need the driver."""


@contextmanager
def h100(codes: list[str]) -> Iterator[None]:
    """Answer what PyTorch's compiler asks of the driver, keep the code that it writes, and end there.

    Its joint passes over a graph are off: they run example patterns on the device.
    """
    from torch._inductor import config
    from torch._inductor.graph import GraphLowering
    from triton.backends.compiler import GPUTarget  # type: ignore[import-untyped]
    from triton.runtime import driver  # type: ignore[import-untyped]

    def keep(graph: GraphLowering) -> None:
        codes.append(graph.codegen()[0].value)
        raise Lowered

    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "_lazy_init": lambda: None, "is_initialized": lambda: True, "set_device": lambda *_: None,
        "_exchange_device": lambda *_: 0, "_maybe_exchange_device": lambda *_: 0, "synchronize": lambda *_: None,
        "get_device_capability": lambda *_: (9, 0), "get_device_properties": lambda *_: H100,
        "_get_device_properties": lambda *_: H100, "is_bf16_supported": lambda *_, **__: True,
        "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8), "set_rng_state": lambda *_: None,
    }  # fmt: skip
    pretended = SimpleNamespace(
        get_current_target=lambda: GPUTarget("cuda", 90, 32), get_current_device=lambda: 0, is_active=lambda: True,
        get_active_torch_device=lambda: CUDA,
    )  # fmt: skip
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(patch.object(torch.cuda, name, answer, create=True))
        stack.enter_context(patch.object(GraphLowering, "compile_to_module", keep))
        stack.enter_context(
            config.patch(
                compile_threads=1, force_disable_caches=True, pattern_matcher=False, use_joint_graph_passes=False
            )
        )
        stack.enter_context(patch.object(driver, "_active", pretended))
        yield


class Lowering(Graphs):
    """A backend that also lets PyTorch's compiler write the code of each graph."""

    def __init__(self) -> None:
        super().__init__()
        self.codes: list[str] = []

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        from torch._inductor.compile_fx import compile_fx

        with h100(self.codes), pytest.raises(Exception, match=Lowered.__name__):
            compile_fx(graph, inputs)
        return super().__call__(graph, inputs)


@contextmanager
def small_network() -> Iterator[I2VPP]:
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


@pytest.fixture
def network() -> Iterator[I2VPP]:
    with small_network() as model:
        yield model


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


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs the package triton")
def test_the_encoder_becomes_triton_kernels() -> None:
    """In a process of its own: PyTorch's compiler remembers for a process which devices there are."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        kernels, operations = pool.submit(lower_the_encoder).result()
    assert 10 < kernels < operations / 2, "operations are joined"


def lower_the_encoder() -> tuple[int, int]:
    """Count the Triton kernels that the encoder becomes, and the operations that it consists of."""
    backend = Lowering()
    with small_network() as network, torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16):
        features(CompiledRunner(network, backend=backend))
    (code,) = backend.codes
    kernels = re.findall(r"= async_compile\.triton\('(\w+)'", code)
    return len(kernels), sum(node.op == "call_function" for node in backend.graphs[0].graph.nodes)
