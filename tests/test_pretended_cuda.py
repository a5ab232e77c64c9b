"""What a GPU would be asked for, on a device that is pretended: the same masks, few waits, nothing mixed or read early.

The network has fewer layers of the kinds of which there are many.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from i2vpp.execution.compilation import CompiledRunner
from i2vpp.execution.cuda_graphs import CudaGraphs
from i2vpp.i2vpp_image_predictor import I2VPPImagePredictor
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.memory.cpu_copy import CpuCopy
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.modeling.inference import round_weights
from i2vpp.session.state import InferenceState
from media import moving_disc
from models import make_predictor
from pretended_cuda import Arrival, MixedDevicesError, PretendedCuda, RaceError, pretended_cuda
from pretended_streams import CaptureError
from test_compiled import RECORDINGS
from test_compiled import play as play_compiled
from test_fewer_kernels import as_on_a_gpu

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there, and the tests marked `gpu` use it")

FRAMES, MASKS = moving_disc(16, seed=5)
SHORT = ("model.selection.global_window=6", "model.selection.local_window=3")
WINDOW = 9
ARRIVALS: tuple[Arrival, ...] = ("at once", "late", "sometimes")
LAUNCHES_OF_A_FRAME = 860
"""Of the small network with one object; the whole network launches more, see docs/performance.md."""


@cache
def small_model(*overrides: str) -> I2VPP:
    model = make_predictor(*overrides).model
    del model.memory_attention.layers[1:]
    del model.image_encoder.trunk_image.layers[2].blocks[1:]
    return model


def predictor_on(device: str, *overrides: str, dtype: torch.dtype = torch.float32) -> I2VPPVideoPredictor:
    model = copy.deepcopy(small_model(*(overrides or SHORT))).to(device)
    if dtype != torch.float32:  # as `build_i2vpp_video_predictor` does
        round_weights(model, dtype, in_float32=(model.sam_prompt_encoder, model.sam_mask_decoder, model.obj_ptr_proj))
    return I2VPPVideoPredictor(model, dtype=dtype)


# ---- the pretended device itself

COSTLY: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "bool": lambda x: bool(x.any()),
    "if": lambda x: 1 if (x > 0).all() else 0,
    "float": lambda x: float(x.max()),
    "int": lambda x: int(x.argmax()),
    "index": lambda x: [1, 2, 3][x.argmin()],
    "format": lambda x: f"{x[0]:.2f}",
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu"),
    "to cpu and dtype": lambda x: x.to("cpu", torch.float64),
    "numpy": lambda x: x.cpu().numpy(),
    "nonzero": lambda x: x.nonzero(),
    "argwhere": lambda x: torch.argwhere(x > 2),
    "where": lambda x: torch.where(x > 2),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x + 1),
    "bool mask": lambda x: x[x > 2],
    "masked_select": lambda x: x.masked_select(x > 2),
    "bool mask, assigned to": lambda x: (x * 1).__setitem__(x > 2, x[:3]),
    "index by a list": lambda x: x[[0, 2]],
    "index by an array": lambda x: x[np.array([0, 2])],
    "repeats": lambda x: x.repeat_interleave(x.long()),
    "wait": lambda x: CpuCopy(x).wait(),
    "from a list": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "to the GPU": lambda x: torch.tensor([1.0, 2.0]).to(x.device),
    "zeros to the GPU": lambda x: torch.zeros(3).cuda(),
    "like": lambda x: torch.tensor([1.0]).to(x),
    "from NumPy": lambda x: torch.from_numpy(np.ones(3)).to("cuda"),
    "copy_ from the host": lambda x: torch.empty_like(x).copy_(torch.zeros(6)),
    "copy_ to the host": lambda x: torch.zeros(6).copy_(x),
    "there and back": lambda x: x.cpu().to(x.device, non_blocking=True),
    "synchronize": lambda x: torch.cuda.synchronize(),
}
FREE: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (x * 2 + x.mean()).softmax(0),
    "dtype": lambda x: x.to(torch.float16).to(x.device).float(),
    "device": lambda x: x.to("cuda").cuda(),
    "slices": lambda x: x[1:4].view(3, 1).expand(3, 5).clone(),
    "index by a tensor": lambda x: x[x.argsort()],
    "filled by mask": lambda x: (x * 1).__setitem__(x > 2, 0.0),
    "factories": lambda x: torch.full((3,), 2.0, device=x.device) + torch.zeros_like(x[:3]),
    "without waiting": lambda x: torch.tensor([1.0, 2.0]).to(x.device, non_blocking=True) + x[:2],
    "started copy": lambda x: CpuCopy(x).arrived(),
    "where": lambda x: torch.where(x > 2, x, -1.0),
    "repeat": lambda x: x.repeat_interleave(2),
    "a number of the host": lambda x: x * torch.tensor(2.0),
    "on the host": lambda x: torch.tensor([3.0, 1.0]).sort().values.add(1).max().item(),
    "host list": lambda x: torch.from_numpy(np.ones(3)).mul(2).tolist(),
    "host mask": lambda x: torch.tensor([3.0, 1.0])[torch.tensor([True, False])],
}


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_counts_waits(mode: Any) -> None:
    found = {}
    with pretended_cuda() as device, mode():
        x = torch.arange(6.0, device="cuda")
        for name, use in (*COSTLY.items(), *FREE.items()):
            device.reset()
            use(x)
            found[name] = len(device.waits)
            assert all("test_pretended_cuda.py" in place or "cpu_copy.py" in place for place in device.waits)
    assert found == dict.fromkeys(COSTLY, 1) | dict.fromkeys(FREE, 0)


def test_it_refuses_what_cuda_refuses() -> None:
    with pretended_cuda():
        x, y = torch.ones(2, device="cuda"), torch.ones(2)
        for mixed in (lambda: x + y, lambda: torch.cat([x, y]), lambda: y[x.long()], lambda: x + y.to("cuda:1")):
            with pytest.raises(MixedDevicesError, match=r"same device, got .*test_pretended_cuda\.py"):
                mixed()
        with pytest.raises(TypeError, match="copy it to the CPU first"):
            x.numpy()
        with pytest.raises(TypeError, match="copy it to the CPU first"):
            np.asarray(x)


def test_copies_hold_garbage_until_they_have_arrived() -> None:
    for arrival, questions in zip(ARRIVALS, (1, None, 3), strict=True):
        with pretended_cuda(arrival=arrival):
            made = CpuCopy(torch.ones(3, device="cuda"))
            assert made._copy.isnan().all()
            answers = [made.arrived() is not None for _ in range(4)]
            assert answers == [questions is not None and i + 1 >= questions for i in range(4)]
            assert made.wait().tolist() == [1, 1, 1]


def test_sources_must_stay_as_they_are_until_the_host_waits() -> None:
    with pytest.raises(RaceError, match=r"changed before the host waited for the copy, at .*test_pretended_cuda\.py"):
        with pretended_cuda() as device:
            source = torch.ones(3)
            source.to("cuda", non_blocking=True)
            device.wait("here")
            source.zero_().to("cuda", non_blocking=True)
            source.fill_(2)


def test_it_has_autocast_and_a_random_state_of_its_own() -> None:
    with pretended_cuda() as device:
        torch.manual_seed(1)
        x = torch.rand(3, 3, device="cuda")
        after = torch.rand(3)
        torch.manual_seed(1)
        assert torch.equal(torch.rand(3), after)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert (x @ x).dtype == torch.float32
        with torch.autocast("cuda", dtype=torch.float16):
            device.reset()
            assert (x @ x).dtype == torch.float16
        assert (device.counts.launches, device.counts.casts) == (3, 2)
        device.reset()
        x.t()[:2].unsqueeze(0)
        assert (device.counts.launches, device.counts.views) == (0, 3)


# ---- sessions


def play(predictor: I2VPPVideoPredictor) -> list[Tensor]:
    """Use everything that a session can do; the masks of all results in order, on the CPU."""
    results = []
    with predictor.init_state(FRAMES) as state:
        results.append(predictor.add_new_points_or_box(state, 0, 1, points=[[12, 24]], labels=[1]))
        results.append(predictor.add_new_points_or_box(state, 0, 2, box=[4, 4, 30, 40]))
        results.append(predictor.add_new_mask(state, 0, 3, MASKS[0]))
        results += [predictor.track_frame(state, t) for t in range(1, WINDOW + 4)]
        results.append(
            predictor.add_new_points_or_box(state, 6, 1, points=[[20, 20]], labels=[0], clear_old_points=False)
        )
        predictor.remove_object(state, 2)
        results += predictor.propagate_in_video(state, start_frame_idx=6, reverse=True, progress=False)
        results += predictor.propagate_in_video(
            state, start_frame_idx=8, both=True, max_frame_num_to_track=2, progress=False
        )
        results.append(predictor.clear_all_prompts_in_frame(state, 6, 1))
        results.append(predictor.track_frame(state, 3))
    with predictor.init_state(FRAMES, offload_state_to_cpu=True) as state:
        results.append(predictor.add_new_points_or_box(state, 0, 1, points=[[12, 24]], labels=[1]))
        results += [predictor.track_frame(state, t) for t in range(1, WINDOW + 3)]
    with predictor.init_stream() as stream:
        stream.step(FRAMES[0])
        results.append(stream.add_new_mask(1, MASKS[0]))
        results += [stream.step(FRAMES[t]) for t in range(1, 6)]
    images = I2VPPImagePredictor(predictor.model, dtype=predictor.dtype)
    images.set_image(FRAMES[0])
    logits = images.predict(point_coords=np.array([[12, 24]]), point_labels=np.array([1]), return_logits=True)[0]
    masks = [result.masks.cpu() for result in results if result is not None]
    return [*masks, torch.from_numpy(logits)]


@cache
def played(arrival: Arrival) -> tuple[Tensor, ...]:
    with pretended_cuda(arrival=arrival):
        return tuple(play(predictor_on("cuda")))


@pytest.mark.slow
def test_the_masks_are_those_of_a_cpu() -> None:
    """That takes the ways of a GPU, whose rounding differs, and grows from memory to memory with these weights."""
    with as_on_a_gpu():
        here = play(predictor_on("cpu"))
    for a, b in zip(here, played("at once"), strict=True):
        assert torch.equal(a, b)


@pytest.mark.slow
@pytest.mark.parametrize("arrival", ["late", "sometimes"])
def test_the_masks_do_not_depend_on_when_copies_arrive(arrival: Arrival) -> None:
    for a, b in zip(played("at once"), played(arrival), strict=True):
        assert torch.equal(a, b)


def test_a_copy_that_is_read_before_it_has_arrived_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for careless in (False, True):
        if careless:
            monkeypatch.setattr(CpuCopy, "wait", lambda copy: copy._copy)
        with pretended_cuda(arrival="late"):
            predictor = predictor_on("cuda")
            with predictor.init_state(FRAMES) as state:
                predictor.add_new_mask(state, 0, 1, MASKS[0])
                found.append([predictor.track_frame(state, t).masks.cpu() for t in range(1, WINDOW)])
    assert not all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# ---- what a frame costs


def frames_of(predictor: I2VPPVideoPredictor, device: PretendedCuda, objects: int, *, live: bool) -> list[list[str]]:
    """What the last frames wait for; all windows are full, and every frame evicts another one."""
    found = []
    with predictor.init_stream() as stream, predictor.init_state(FRAMES) as state:
        for t, frame in enumerate(FRAMES[: WINDOW + 5]):
            device.reset()
            if live:
                stream.step(frame)
            elif t > 0:
                predictor.track_frame(state, t)
            found.append(device.waits)
            if t == 0:
                for obj_id in range(objects):
                    points = [[12 + 8 * obj_id, 24]]
                    predictor.add_new_points_or_box(
                        stream.state if live else state, 0, obj_id, points=points, labels=[1]
                    )
    return found[WINDOW + 3 :]


@pytest.mark.parametrize(("objects", "live"), [(1, False), (3, True)])
def test_a_tracked_frame_waits_for_its_similarities_only(objects: int, live: bool) -> None:
    with pretended_cuda(arrival="late") as device:
        for places in frames_of(predictor_on("cuda"), device, objects, live=live):
            assert len(places) == 1, "\n".join(places)
            assert "cpu_copy.py" in places[0]


def test_without_similarities_nothing_is_waited_for() -> None:
    with pretended_cuda(arrival="late") as device:
        recent = predictor_on("cuda", "model.selection.mode=recent", *SHORT)
        assert frames_of(recent, device, 1, live=False) == [[]] * 2


def test_a_wait_per_object_would_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    evict = InferenceState.evict

    def clumsy(state: InferenceState, frame_idx: int, tracks: Any) -> None:
        for track in tracks:
            track.records[frame_idx].iou.cpu()
        evict(state, frame_idx, tracks)

    monkeypatch.setattr(InferenceState, "evict", clumsy)
    with pretended_cuda(arrival="late") as device:
        for places in frames_of(predictor_on("cuda"), device, 3, live=False):
            assert sum("test_pretended_cuda.py" in place for place in places) == 3


@pytest.mark.parametrize("shapes_only", [False, True])
def test_a_tracked_frame_launches_few_kernels(shapes_only: bool) -> None:
    """With shapes alone about as many: other frames are selected, because all similarities are 0."""
    with pretended_cuda(shapes_only=shapes_only) as device:
        predictor = predictor_on("cuda", dtype=torch.bfloat16)
        frames_of(predictor, device, 1, live=False)
        assert 100 < device.counts.launches <= LAUNCHES_OF_A_FRAME
        assert device.counts.casts <= device.counts.launches // 4
        assert sum(device.to_host) < 10_000
        assert len(device.to_host) <= 4


# ---- CUDA graphs


def twice(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return (x * 2 + y, x.view(-1)[:2])


@pytest.mark.parametrize("name", ["cuda:0", "cuda:1"])
def test_graphs_are_recorded_once_for_each_shape_on_their_device(name: str) -> None:
    with pretended_cuda() as device:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):  # PyTorch makes its stream for recordings on this device
            torch.ones(1, device="cuda:0")
        graphs = CudaGraphs(twice)
        for i in (1, 2, 3):
            for size in (3, 4):
                x, y = torch.full((size,), float(i), device=name), torch.ones(size, device=name)
                first, second = graphs(x, y)
                assert first.device == torch.device(name)
                assert first.tolist() == [2.0 * i + 1] * size
                assert second.tolist() == [i, i]
        assert len(graphs._recordings) == 2
        assert device.replays == 6


def test_what_a_graph_cannot_hold_is_refused() -> None:
    with pretended_cuda() as device:
        x, y = torch.ones(3, device="cuda"), torch.ones(3, device="cuda")
        with pytest.raises(CaptureError, match="_local_scalar_dense is not allowed while a graph is recorded"):
            CudaGraphs(lambda x, y: (x * y.sum().item(),))(x, y)
        with pytest.raises(CaptureError, match="a copy from the host is not allowed"):
            CudaGraphs(lambda x, y: (x * torch.ones(3).to("cuda", non_blocking=True),))(x, y)
        assert device.recording is None
        with torch.cuda.stream(torch.cuda.Stream("cuda:1")), pytest.raises(CaptureError, match="nothing was recorded"):
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.current_stream()):
                x + y


def test_only_one_graph_is_recorded_at_a_time_in_a_process() -> None:
    """Two threads, with functions of their own; the second one starts while the first one records."""
    begun = threading.Event()

    def slow(x: Tensor) -> tuple[Tensor, ...]:
        if device.recording is not None:
            begun.set()
            time.sleep(0.3)
        return (x + 1,)

    def other() -> None:
        begun.wait(60)
        with device.in_this_thread():
            results.append(CudaGraphs(lambda x: (x + 2,))(torch.ones(2, device="cuda:1"))[0].tolist())

    results: list[list[float]] = []
    with pretended_cuda() as device:
        thread = threading.Thread(target=other)
        thread.start()
        assert CudaGraphs(slow)(torch.ones(2, device="cuda"))[0].tolist() == [2, 2]
        thread.join()
    assert results == [[3, 3]]


@pytest.mark.slow
def test_a_session_from_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled on a GPU is recorded as it is, without a compiler: the masks stay, few graphs are recorded."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr("i2vpp.execution.compilation.check_machine", lambda _: None)
    with pretended_cuda(arrival="late") as device:
        model = copy.deepcopy(small_model()).to("cuda")
        recorded = I2VPPVideoPredictor(model, runner=CompiledRunner)
        found = play_compiled(recorded)
        assert torch.equal(*found.early)
        assert device.replays >= 2 * 19  # the encoder and the step of every tracked frame
        runner = recorded._tracker.runner
        assert isinstance(runner, CompiledRunner)
        parts = (runner._encode, runner._track_one, runner._track_several)
        assert tuple(len(part._run._recordings) for part in parts) == RECORDINGS
        masks = [result.masks.cpu() for result in found.results]
    plain = play_compiled(I2VPPVideoPredictor(small_model()))
    for result, there in zip(plain.results, masks, strict=True):
        assert float(((result.masks - there).abs() > 1e-3).float().mean()) <= 0.001  # a hole may be filled or not


# ---- training


@pytest.fixture(scope="session")
def null_guard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of `null_guard.cpp`, which backward passes need."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C++ compiler")
    torch_folder, library = Path(torch.__file__).parent, tmp_path_factory.mktemp("guard") / "null_guard.so"
    options = ["-shared", "-fPIC", "-O0", "-std=c++20", f"-I{torch_folder / 'include'}"]
    source = Path(__file__).with_name("null_guard.cpp")
    subprocess.run([compiler, *options, str(source), "-o", str(library)], check=True)
    return library


@pytest.mark.slow
def test_a_training_step_learns_what_it_learns_on_a_cpu(null_guard: Path) -> None:
    """Recomputed activations give the same gradients, because the dropout of a device is drawn again, too."""
    tests = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests), *sys.path])}
    script = [sys.executable, str(tests / "pretended_training.py"), str(null_guard)]
    output = subprocess.run(script, env=environment, check=True, capture_output=True, text=True).stdout
    found = json.loads(output.splitlines()[-1])
    for same in ("cpu, gpu", "kept, recomputed", "kept, recomputed, with dropout"):
        assert max(found[same].values()) < 1e-3, (same, found[same])
    assert found["without dropout, with it"]["gradients"] > 0.01
