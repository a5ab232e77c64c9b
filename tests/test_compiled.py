"""The compiled predictor: the masks of the plain one, few compilations, results that stay as they are.

All but the tests marked `slow` and `gpu` compile to plain operations (backend `eager`), which needs no compiler.
"""

from __future__ import annotations

import copy
import logging
import pickle
import sys
import sysconfig
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, cast

import pytest
import torch
from torch._dynamo.eval_frame import _debug_get_cache_entry_list
from torch._dynamo.testing import CompileCounterWithBackend

from i2vpp import cli
from i2vpp.errors import CompilationError
from i2vpp.execution.compilation import CompiledRunner, check_machine, pad
from i2vpp.execution.runner import ObjectOutput, Runner
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.modeling.backbones.image_encoder import ImageEncoder
from i2vpp.modeling.backbones.temporal_feature_integrator import TemporalFeatureIntegrator, TemporalNet
from i2vpp.modeling.backbones.tiny_vit import TinyViT
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.structures import FrameFeatures, FrameMemory, FrameResult, MemoryFrame, MemoryPointer, SelectedMemory
from media import moving_disc
from models import SIDE, iou, make_predictor, make_shallow
from parity.det_weights import fill, normal

FRAMES, MASKS = moving_disc(20, seed=3)
GRID = SIDE // 16
CPU = torch.device("cpu")
ENCODER, ONE_OBJECT, SEVERAL = 1, 1, 1  # compilations
RECORDINGS = (1, 2, 2)
"""Shapes of `play`'s inputs to the encoder, the step of one object (memories: 7, 12) and of several (objects: 8, 7)."""


def small_model(device: torch.device = CPU) -> I2VPP:
    """With fewer layers of the kinds of which there are many: tracing takes half the time."""
    return make_shallow(make_predictor(device=device)).model


def few_kernels_model() -> I2VPP:
    """With each kind of layer once or twice and equal widths, for which a compiler writes fewer different kernels."""
    model = small_model()
    trunk = TinyViT(widths=(64, 64, 64, 64), depths=(1, 1, 1, 1), heads=(2, 2, 2), windows=(7, 7, 7))
    integrator = TemporalFeatureIntegrator(in_channels=(64, 64, 256))
    for net in cast("list[TemporalNet]", list(integrator.temporal_nets)):
        del net.lns[1:], net.temporal_net[1:]
    model.image_encoder = ImageEncoder(trunk, integrator)
    fill(model)
    return model


@dataclass
class Session:
    """What `play` has seen: all results in order, and what is known of frame 10 right after it and at the end."""

    results: list[FrameResult] = field(default_factory=list)
    early: list[torch.Tensor] = field(default_factory=list)


def play(predictor: I2VPPVideoPredictor, each: Callable[[int], object] = lambda _: None) -> Session:
    """Run a session in which memory fills up, objects come and go, and one is prompted again; call `each` per frame."""
    seen = Session()
    with predictor.init_state(FRAMES) as state:
        seen.results.append(predictor.add_new_points_or_box(state, 0, 1, points=[[12, 24]], labels=[1]))
        for result in predictor.propagate_in_video(state, progress=False):
            seen.results.append(result)
            t = result.frame_idx
            each(t)
            if t == 8:  # one object becomes eight
                seen.results += [predictor.add_new_mask(state, t, obj_id, MASKS[t]) for obj_id in range(2, 9)]
            elif t == 10:
                predictor.remove_object(state, 1)
            elif t == 12:  # prompted frames, one and two of them
                seen.results.append(predictor.add_new_points_or_box(state, t, 3, points=[[30, 20]], labels=[0]))
            elif t == 14:  # one object is left
                for obj_id in (2, 4, 5, 6, 7, 8):
                    predictor.remove_object(state, obj_id)
            elif t == 16:  # six prompted frames
                seen.results += [predictor.add_new_mask(state, f, 3, MASKS[f]) for f in (3, 5, 9, 11)]
            if t in (10, 19):
                known = predictor.clear_all_prompts_in_frame(state, 10, 3)  # no prompt is there: nothing is cleared
                assert known is not None
                seen.early.append(known.masks[known.obj_ids.index(3)].clone())
    return seen


def assert_alike(a: Session, b: Session, *, tolerance: float, share: float, overlap: float = 0.999) -> None:
    """All but a small share of the logits may differ by the tolerance only: a hole may be filled or not."""
    assert [(r.frame_idx, r.obj_ids) for r in a.results] == [(r.frame_idx, r.obj_ids) for r in b.results]
    x, y = (torch.cat([r.masks.flatten() for r in seen.results]) for seen in (a, b))
    assert float(((x - y).abs() > tolerance).float().mean()) <= share
    assert iou(x, y) >= overlap
    for name in ("object_scores", "predicted_ious"):
        scores = (torch.cat([getattr(r, name) for r in seen.results]) for seen in (a, b))
        torch.testing.assert_close(*scores, rtol=0, atol=10 * tolerance, equal_nan=True)


@contextmanager
def messages_of_compilation() -> Iterator[list[str]]:
    """What is logged, and all Python warnings."""
    log, handler, seen = logging.getLogger("i2vpp.execution.compilation"), logging.Handler(), []
    handler.emit = lambda record: seen.append(record.getMessage())
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield seen
        seen += [str(warning.message) for warning in warned]
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


@dataclass
class Played:
    predictor: I2VPPVideoPredictor
    plain: Session
    compiled: Session
    counter: CompileCounterWithBackend
    counts: list[int]
    messages: list[str]
    functions: list[CodeType]


@pytest.fixture(scope="module")
def played() -> Played:
    """The session of `play`, plain, and compiled after warming up with one object and with two."""
    model, counter, counts, functions = small_model(), CompileCounterWithBackend("eager"), [], []
    compile_function = torch.compile

    def remember(function: FunctionType, **options: Any) -> Any:
        functions.append(function.__code__)
        return compile_function(function, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", remember)
        predictor = I2VPPVideoPredictor(model, runner=partial(CompiledRunner, backend=counter))
    with messages_of_compilation() as messages:
        for objects in (1, 2):
            predictor.warm_up(objects)
            counts.append(counter.frame_count)
    compiled = play(predictor, lambda _: counts.append(counter.frame_count))
    plain = play(I2VPPVideoPredictor(model))
    return Played(predictor, plain, compiled, counter, counts, messages, functions)


def test_three_compilations_serve_for_good(played: Played) -> None:
    after_warm_up = [ENCODER + ONE_OBJECT, ENCODER + ONE_OBJECT + SEVERAL]
    assert played.counts == [*after_warm_up, *after_warm_up[-1:] * len(FRAMES)]


def test_the_masks_are_those_of_the_plain_predictor(played: Played) -> None:
    assert len(played.compiled.results) == 1 + len(FRAMES) + 7 + 1 + 4
    assert_alike(played.compiled, played.plain, tolerance=1e-3, share=0.001)


def test_what_was_found_earlier_stays(played: Played) -> None:
    for seen in (played.compiled, played.plain):
        assert torch.equal(*seen.early)


def test_compiling_is_announced_and_timed(played: Played) -> None:
    parts = ["the encoder", "the step of a tracked frame", "the step of a tracked frame for several objects"]
    assert len(played.messages) == 2 * len(parts)  # and no warning of PyTorch's
    for part, begin, end in zip(parts, played.messages[::2], played.messages[1::2], strict=True):
        assert begin == f"compiling {part}; this may take a minute"
        assert end.startswith(f"compiled {part} in ")
        assert end.endswith(" s")


def test_threads_share_what_is_compiled(played: Played) -> None:
    found: dict[int, Session] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: play(played.predictor)})) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 2
    for seen in found.values():
        assert_alike(seen, played.compiled, tolerance=1e-3, share=0.001)
    assert played.counter.frame_count == played.counts[-1]


def test_each_function_has_one_compilation(played: Played) -> None:
    """Where one has several, a thread that looks for one while another thread reorders them compiles once more."""
    found = [len(_debug_get_cache_entry_list(code)) for code in played.functions]
    assert found == [ENCODER, ONE_OBJECT, SEVERAL]


def clip_of(seed: int, device: torch.device = CPU) -> torch.Tensor:
    return normal(seed, 1, 3, 3, SIDE, SIDE).to(device)


@torch.no_grad()
def test_copies_and_moves_follow_their_own_model(played: Played) -> None:
    original, clip = played.predictor, clip_of(1)
    names = set(original.model.state_dict())
    assert not any("_orig_mod" in name for name in names)
    before = original._tracker.runner.encode(clip).embedding
    twin = I2VPPVideoPredictor(original.model, runner=partial(CompiledRunner, backend="eager"))
    for other in (pickle.loads(pickle.dumps(twin)), copy.deepcopy(twin)):
        assert set(other.model.state_dict()) == names
        assert isinstance(other._tracker.runner, CompiledRunner)
        assert other._tracker.runner.model is other.model is not original.model
    other.model.image_encoder.trunk_video.integration_nets[2].layer[0].weight.zero_()
    found = other._tracker.runner.encode(clip).embedding
    torch.testing.assert_close(found, other.model.encode(clip).embedding, rtol=0, atol=1e-5)
    assert not torch.allclose(found, before, rtol=0, atol=1e-2)
    runner = other._tracker.runner
    encode = runner._encode
    other.model._apply(lambda tensor: tensor.clone())  # as `to` does: other storage
    assert torch.equal(runner.encode(clip).embedding, found)
    assert runner._encode is not encode


@torch.no_grad()
def test_a_model_that_comes_back_does_not_lie_where_it_lay() -> None:
    """Where it lay stays taken until that is noticed."""
    model = small_model()
    numbers = model.no_mem_embed.detach().numpy().copy()
    model.no_mem_embed.data, storage = torch.from_numpy(numbers), weakref.ref(numbers)
    del numbers
    runner = CompiledRunner(model, backend="eager")
    encode = runner._encode
    model._apply(lambda tensor: tensor.clone())
    model._apply(lambda tensor: tensor.clone())
    assert storage() is not None
    runner._follow_model()
    assert runner._encode is not encode
    assert storage() is None


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    model, counter = small_model(), CompileCounterWithBackend("eager")
    compiled = I2VPPVideoPredictor(model, dtype=dtype, runner=partial(CompiledRunner, backend=counter))
    plain = I2VPPVideoPredictor(model, dtype=dtype)
    assert_alike(play(compiled), play(plain), tolerance=0.2, share=0.002, overlap=0.97)
    assert counter.frame_count == ENCODER + ONE_OBJECT + SEVERAL


class TestFillingUp:
    def memory(self, seed: int) -> FrameMemory:
        return FrameMemory(
            values=normal(seed, 1, 64, GRID, GRID).bfloat16(),
            foreground=normal(seed + 1, 1, GRID, GRID) > 0,
            pointer=normal(seed + 2, 1, 256),
        )

    def selected(self, memories: int, pointers: int) -> SelectedMemory:
        kept = [self.memory(10 * i) for i in range(max(memories, pointers))]
        weights = [3] + [1] * (len(kept) - 1)
        return SelectedMemory(
            spatial=tuple(MemoryFrame(memory=kept[i], slot=i % 7, weight=weights[i]) for i in range(memories)),
            pointers=tuple(
                MemoryPointer(pointer=kept[i].pointer, offset=1 - i / 7, weight=weights[i]) for i in range(pointers)
            ),
        )

    def test_few_sizes_little_larger(self) -> None:
        sizes = {}
        for count in range(1, 60):
            memories, pointers = pad(self.selected(count, count)).shape
            assert max(count, 7) <= memories <= max(7, 1.25 * count)
            assert max(count, 8) <= pointers < count + 8
            sizes[memories] = pointers
        assert list(sizes) == [7, 8, 10, 12, 15, 18, 22, 27, 33, 41, 51, 63]
        assert pad(self.selected(2, 0)).shape == (7, 8)

    @pytest.mark.parametrize("shape", [(1, 1), (2, 0), (7, 7), (9, 9)])
    @torch.no_grad()
    def test_what_fills_up_has_no_say(self, shape: tuple[int, int], played: Played) -> None:
        model = played.predictor.model
        features = model.encode(clip_of(1))
        selected = self.selected(*shape)
        want, got = (model.condition_on_memory(features, model.memory_tokens([r])) for r in (selected, pad(selected)))
        torch.testing.assert_close(got.embedding, want.embedding, rtol=0, atol=2e-5)
        torch.testing.assert_close(got.memory_prompts, want.memory_prompts, rtol=0, atol=2e-5)


class TestBatches:
    class Counting(Runner):
        """Notes how many objects are found at a time, and what for."""

        def __init__(self, model: I2VPP) -> None:
            super().__init__(model)
            self.batches: list[int] = []

        def _run_batch(self, features: FrameFeatures, selected: Sequence[SelectedMemory]) -> ObjectOutput:
            self.batches.append(len(selected))
            return super()._run_batch(features, selected)

    @pytest.mark.parametrize(("most_cells", "batches"), [(2**17, [10, 10]), (100, [5, 5, 5, 5]), (1, [1] * 20)])
    def test_of_nearly_equal_size(
        self, most_cells: int, batches: list[int], played: Played, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Memory of one frame has 16 cells here."""
        monkeypatch.setattr("i2vpp.execution.runner.MEMORY_CELLS_PER_BATCH", most_cells)
        predictor = I2VPPVideoPredictor(played.predictor.model, runner=self.Counting)
        with predictor.init_state(FRAMES[:2]) as state:
            for obj_id in range(20):
                predictor.add_new_mask(state, 0, obj_id, MASKS[0])
            list(predictor.propagate_in_video(state, progress=False))
            assert predictor._tracker.runner.batches == batches  # type: ignore[attr-defined]
            for track in state.tracks.values():  # an object that is removed frees what was found of it
                memory, record = track.bank._non_conditioning[1], track.records[1]
                for tensor in (memory.values, memory.foreground, memory.pointer, record.decoded, record.logits):
                    assert tensor.untyped_storage().nbytes() == tensor.nbytes


class TestWhatIsMissing:
    def test_a_compiler(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(CompilationError, match=r"no-such-compiler is not found: install it .*variable CXX, or do"):
            check_machine(CPU)
        monkeypatch.delenv("CXX")
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(
            CompilationError, match=r"compiler, and .+ is not found.*\(no vos_optimized, no --compile\)"
        ):
            check_machine(CPU)

    def test_headers(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("CXX", sys.executable)  # any program that is there
        monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
        with pytest.raises(CompilationError, match=r"headers, and .*Python\.h does not exist.*python3-dev"):
            check_machine(CPU)

    def test_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "triton", None)
        with pytest.raises(CompilationError, match="package triton: pip install triton, or do without"):
            check_machine(torch.device("cuda"))

    def test_a_device_that_can(self) -> None:
        with pytest.raises(CompilationError, match="works on cpu and cuda, not on mps"):
            check_machine(torch.device("mps"))

    def test_nothing(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("CXX", sys.executable)
        (tmp_path / "Python.h").touch()
        monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
        assert isinstance(make_predictor(vos_optimized=True)._tracker.runner, CompiledRunner)
        assert type(make_predictor()._tracker.runner) is Runner

    def test_the_command_says_so(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("CXX", "no-such-compiler")
        arguments = ["demo", "--compile", "--device", "cpu", "--config", "i2vpp-256", "-o", str(tmp_path / "out")]
        assert cli.main(arguments) == 1
        assert "error: compilation needs a compiler, and no-such-compiler is not found" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()

    def test_what_pytorch_cannot_compile(self, played: Played) -> None:
        def refuse(*_: object) -> None:
            raise RuntimeError("no graph today")

        runner = CompiledRunner(played.predictor.model, backend=refuse)
        with (
            torch.no_grad(),
            pytest.raises(CompilationError, match=r"could not compile the encoder: .*no graph today.*do without"),
        ):
            runner.encode(clip_of(1))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_inductor_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One object only: PyTorch's own compiler takes a minute for each compilation."""
    monkeypatch.setenv("TORCHINDUCTOR_DEBUG_COMPILE", "1")  # C++ is compiled without optimisation, in half the time
    try:
        check_machine(CPU)
    except CompilationError as missing:
        pytest.skip(str(missing))
    model = few_kernels_model()
    seen = []
    for runner in (Runner, CompiledRunner):
        predictor = I2VPPVideoPredictor(model, runner=runner)
        with predictor.init_state(FRAMES) as state:
            first = predictor.add_new_points_or_box(state, 0, 1, points=[[12, 24]], labels=[1])
            seen.append(Session(results=[first, *predictor.propagate_in_video(state, progress=False)]))
    assert_alike(*seen, tolerance=1e-2, share=0.002)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_graphs(dtype: torch.dtype) -> None:
    """Recorded in one thread, replayed in another, with few recordings."""
    model = small_model(torch.device("cuda"))
    predictor = I2VPPVideoPredictor(model, dtype=dtype, runner=CompiledRunner)
    plain = play(I2VPPVideoPredictor(model, dtype=dtype))
    found = [play(predictor)]
    thread = threading.Thread(target=lambda: found.append(play(predictor)))
    thread.start()
    thread.join()
    assert len(found) == 2
    tolerance, share, overlap = (1e-2, 0.002, 0.999) if dtype == torch.float32 else (0.3, 0.005, 0.97)
    for seen in found:
        assert_alike(seen, plain, tolerance=tolerance, share=share, overlap=overlap)
        assert torch.equal(*seen.early)
    runner = predictor._tracker.runner
    assert isinstance(runner, CompiledRunner)
    parts = (runner._encode, runner._track_one, runner._track_several)
    assert tuple(len(part._run._recordings) for part in parts) == RECORDINGS
