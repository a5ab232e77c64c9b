"""Compilation of the image encoder and of the step of tracked frames with PyTorch.

Three compilations serve a predictor: the encoder, the step of one object and the step of several. To that end memory
is padded to a few fixed shapes with entries of weight 0, and numbers of objects and memories may vary within one
compilation. On a GPU every shape that occurs is recorded as a CUDA graph, which takes about a second.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import torch
from torch import Tensor

from i2vpp.errors import CompilationError
from i2vpp.execution.cuda_graphs import CudaGraphs, Function
from i2vpp.execution.runner import ObjectOutput, Runner, track_step
from i2vpp.modeling.i2vpp import I2VPP, NUM_SLOTS, StackedMemories
from i2vpp.structures import FrameFeatures, MemoryFrame, MemoryPointer, SelectedMemory

POINTER_STEP = 8  # pointers are padded to multiples of this, so that rows of attention logits are aligned on a GPU
INDUCTOR = "inductor"
ADVICE = "or do without compilation (no vos_optimized, no --compile)"

log = logging.getLogger(__name__)


class CompiledRunner(Runner):
    """Run the image encoder and the step of tracked frames compiled; prompts run operation by operation.

    Prompts are not compiled, because their numbers of clicks vary. Nothing is compiled before it is used for the first
    time. Masks differ from those of `Runner` by rounding. A model that is moved is compiled again; copies and pickles
    of a runner hold nothing compiled.

    Args:
        model: the network, in eval mode, on a CPU or a CUDA device.
        backend: backend of `torch.compile`.

    Raises:
        CompilationError: something that compilation needs is missing here.
    """

    def __init__(self, model: I2VPP, *, backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__(model)
        self._backend = backend
        self._reset()

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self.model, "_backend": self._backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def encode(self, clip: Tensor) -> FrameFeatures:
        """See `I2VPP.encode`; B = 1."""
        self._follow_model()
        embedding, position = self._encode(clip)
        return FrameFeatures(embedding=embedding, position=position)

    def _pad(self, selected: SelectedMemory) -> SelectedMemory:
        return pad(selected)

    def _run_batch(self, features: FrameFeatures, selected: Sequence[SelectedMemory]) -> ObjectOutput:
        self._follow_model()
        # Make contiguous: a new memory layout triggers a recompilation.
        stacked = [tensor.contiguous() for tensor in self.model.stack_memories(selected)]
        track = self._track_one if len(stacked[0]) == 1 else self._track_several
        return ObjectOutput(*track(features.embedding, features.position, *stacked))

    def _follow_model(self) -> None:
        if self._place.data_ptr() != self.model.no_mem_embed.data_ptr() or self._place.device != self.model.device:
            self._reset()

    def _reset(self) -> None:
        """Drop everything that is compiled and prepare to compile again."""
        model = self.model
        if self._backend == INDUCTOR:
            check_machine(model.device)
        # One of the weights, to notice when the model is moved. Its storage is held, so that after a move to another
        # device and back this weight cannot have its old address while others, which CUDA graphs read, have new ones.
        self._place = model.no_mem_embed.detach()

        def encode(clip: Tensor) -> tuple[Tensor, ...]:
            features = model.encode(clip)
            return features.embedding, features.position

        def track_objects(embedding: Tensor, position: Tensor, *stacked: Tensor) -> tuple[Tensor, ...]:
            memories = StackedMemories(*stacked)
            features = FrameFeatures(embedding=embedding, position=position)
            return tuple(track_step(model, features, model.stacked_memory_tokens(memories)))

        def compiled_step() -> Function:
            step = self._compiled(track_objects)

            def track(embedding: Tensor, position: Tensor, *stacked: Tensor) -> tuple[Tensor, ...]:
                for tensor in stacked:  # [B, memories or pointers, ...]
                    torch._dynamo.maybe_mark_dynamic(tensor, [1] if len(tensor) == 1 else [0, 1])
                return step(embedding, position, *stacked)

            return track

        on_gpu = model.device.type == "cuda"
        self._encode = _Compiled(self._compiled(encode), "the encoder", graphs=on_gpu)
        # PyTorch compiles for a batch of one separately. Both could be compilations of one function, but a thread that
        # looks for one of them while another thread reorders them may miss it, and it is compiled once more.
        self._track_one = _Compiled(compiled_step(), "the step of a tracked frame", graphs=on_gpu)
        several = "the step of a tracked frame for several objects"
        self._track_several = _Compiled(compiled_step(), several, graphs=on_gpu)

    def _compiled(self, function: Function) -> Function:
        # PyTorch keeps a limited number of compilations per code object, so every runner compiles a copy of its own.
        assert isinstance(function, FunctionType)
        code = function.__code__.replace()
        own = FunctionType(code, function.__globals__, function.__name__, closure=function.__closure__)
        return cast("Function", torch.compile(own, backend=self._backend, dynamic=False))


class _Compiled:
    """A compiled function of tensors that logs its first call, which takes long.

    Args:
        function: result of `torch.compile`.
        name: name of the function in the log.
        graphs: record it as CUDA graphs.
    """

    def __init__(self, function: Function, name: str, *, graphs: bool) -> None:
        self._run = CudaGraphs(function) if graphs else function
        self._name = name
        self._ready = False
        self._lock = threading.Lock()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        if self._ready:
            return self._run(*inputs)
        with self._lock:
            outputs = self._first(inputs)
            self._ready = True
        return outputs

    def _first(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Compile and run.

        Raises:
            CompilationError: PyTorch cannot.
        """
        log.info("compiling %s; this may take a minute", self._name)
        begin = time.perf_counter()
        try:
            with warnings.catch_warnings():  # cached tables depend on sizes alone, and are made in the graph instead
                warnings.filterwarnings("ignore", message="(?s).*lru_cache")
                outputs = self._run(*inputs)
        except torch._dynamo.exc.TorchDynamoException as error:
            reason = " ".join(str(error).splitlines()[:2])
            raise CompilationError(f"PyTorch could not compile {self._name}: {reason}; mend that {ADVICE}") from error
        log.info("compiled %s in %.0f s", self._name, time.perf_counter() - begin)
        return outputs


def pad(selected: SelectedMemory) -> SelectedMemory:
    """Pad to one of a few fixed shapes, so that compiled code is reused; padded entries have weight 0.

    Memories are padded to 7, then in steps of about a quarter; pointers in steps of 8.
    """
    memories, pointers = selected.shape
    size = NUM_SLOTS  # one conditioning frame and all the non-conditioning ones that are read
    while size < memories:
        size += max(1, size // 4)
    memory = selected.spatial[0].memory
    nothing = MemoryFrame(memory=memory, slot=0, weight=0)
    no_pointer = MemoryPointer(pointer=memory.pointer, offset=0.0, weight=0)
    missing = -pointers % POINTER_STEP if pointers else POINTER_STEP
    return SelectedMemory(
        spatial=selected.spatial + (nothing,) * (size - memories), pointers=selected.pointers + (no_pointer,) * missing
    )


def check_machine(device: torch.device) -> None:
    """Check that a machine has what `torch.compile` needs for a device.

    Raises:
        CompilationError: it has not; the message names what is missing and what to do.
    """
    if device.type not in ("cpu", "cuda"):
        raise CompilationError(
            f"compilation works on cpu and cuda, not on {device.type}; choose another device, {ADVICE}"
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise CompilationError(f"compilation for a GPU needs the package triton: pip install triton, {ADVICE}")
    default = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    variable, names = ("CXX", (default,)) if device.type == "cpu" else ("CC", ("gcc", "clang", "cc", "cl"))
    named = os.environ.get(variable)
    if not any(map(shutil.which, (named,) if named else names)):
        raise CompilationError(
            f"compilation needs a compiler, and {named or ' or '.join(names)} is not found: install it (on Debian and "
            f"Ubuntu: apt install g++), name another one in the environment variable {variable}, {ADVICE}"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise CompilationError(
            f"compilation needs Python's headers, and {header} does not exist: install them (on Debian and Ubuntu: "
            f"apt install python3-dev), {ADVICE}"
        )
