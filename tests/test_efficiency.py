"""What must not cost time or memory: the encoder's calls, decoding, and what a session holds."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from i2vpp.build_i2vpp import build_i2vpp
from i2vpp.errors import PromptError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.memory.cpu_copy import CpuCopy
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.session.records import COPIES_UNDER_WAY, FrameRecord
from i2vpp.session.state import InferenceState
from i2vpp.session.video_file import decoder
from media import moving_disc, numbered, write_video
from models import SIDE, make_predictor, make_shallow, parity_weights

FRAMES, MASKS = moving_disc(40, seed=5)
CLICK = {"points": [[12, 24]], "labels": [1]}
SHORT = ("model.selection.global_window=6", "model.selection.local_window=3")
WINDOW = 9
CELLS = (SIDE // 16) ** 2


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    """On the CPU, with windows that are full after a few frames."""
    return make_predictor(*SHORT, dtype="float32")


def add_objects(predictor: I2VPPVideoPredictor, state: InferenceState, count: int) -> None:
    for obj_id in range(count):
        predictor.add_new_points_or_box(state, 0, obj_id, points=[[12 + 8 * obj_id, 24]], labels=[1])


@pytest.fixture
def encoded(predictor: I2VPPVideoPredictor) -> Iterator[list[int]]:
    """Grows by one with every call of the image encoder."""
    calls: list[int] = []
    with predictor.model.image_encoder.register_forward_hook(lambda *_: calls.append(1)):
        yield calls


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indices of all frames that video files decode."""
    seen: list[int] = []
    original = decoder._decode

    def spy(*args: Any) -> Iterator[Any]:
        for index, frame in original(*args):
            seen.append(index)
            yield index, frame

    monkeypatch.setattr(decoder, "_decode", spy)
    return seen


# ---- waiting for a GPU: `test_pretended_cuda.py` counts it without one


@pytest.mark.gpu
@pytest.mark.parametrize("objects", [1, 3])
def test_on_a_gpu_nothing_but_the_similarities_synchronises(objects: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA itself refuses all other waits; that for the similarities is an event's, which it allows."""
    predictor = make_predictor(*SHORT, device="cuda")
    waited = []
    wait = CpuCopy.wait
    monkeypatch.setattr(CpuCopy, "wait", lambda copy: waited.append(1) or wait(copy))
    with predictor.init_state(FRAMES) as state:
        add_objects(predictor, state, objects)
        for i in range(12):
            predictor.track_frame(state, i)
        waited.clear()
        try:
            torch.cuda.set_sync_debug_mode("error")
            for i in range(12, 30):
                predictor.track_frame(state, i)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert len(waited) <= 18
        assert all(state.tracks[0].records[f].decoded.device.type == "cpu" for f in range(1, 10))


# ---- the encoder


@pytest.mark.parametrize("objects", [1, 3])
def test_the_encoder_runs_once_per_frame(predictor: I2VPPVideoPredictor, encoded: list[int], objects: int) -> None:
    with predictor.init_state(FRAMES) as state:
        add_objects(predictor, state, objects)
        assert len(encoded) == 1
        for i, _ in enumerate(predictor.propagate_in_video(state, max_frame_num_to_track=14, progress=False)):
            assert len(encoded) == 1 + i  # frame 0 was encoded for its prompts
        predictor.track_frame(state, 14)
        predictor.add_new_points_or_box(state, 14, 0, **CLICK)
        predictor.add_new_mask(state, 13, 7, MASKS[13])
        assert len(encoded) == 15


@pytest.mark.parametrize("objects", [1, 3])
def test_the_encoder_runs_once_per_step_of_a_stream(
    predictor: I2VPPVideoPredictor, encoded: list[int], objects: int
) -> None:
    with predictor.init_stream() as stream:
        stream.step(FRAMES[0])
        assert not encoded  # there is nothing to look for
        add_objects(predictor, stream.state, objects)
        for i in range(1, 14):
            stream.step(FRAMES[i])
            assert len(encoded) == 1 + i
        stream.add_new_points_or_box(0, **CLICK)
        stream.add_new_mask(9, MASKS[13])
        assert len(encoded) == 14


# ---- weights and maps


class WeightCasts(TorchDispatchMode):
    """Names, in its `with` block, the weights of a network that are cast to another dtype."""

    def __init__(self, model: I2VPP) -> None:
        super().__init__()
        self.names: list[str] = []
        self._names = {weight.data_ptr(): name for name, weight in model.named_parameters()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and args[0].data_ptr() in self._names:
            self.names.append(self._names[args[0].data_ptr()])
        return func(*args, **(kwargs or {}))


def track_three(predictor: I2VPPVideoPredictor) -> tuple[Tensor, list[str]]:
    """Logits of the third frame, and the weights cast on it."""
    with predictor.init_state(FRAMES) as state:
        add_objects(predictor, state, 2)
        predictor.track_frame(state, 1)
        with WeightCasts(predictor.model) as casts:
            return predictor.track_frame(state, 2).masks, casts.names


def layers(names: Iterable[str]) -> set[str]:
    """The layers of weights."""
    return {name.rpartition(".")[0] for name in names}


def test_weights_are_rounded_once_and_to_the_same_numbers() -> None:
    once = make_predictor(dtype="bfloat16")
    model = build_i2vpp("i2vpp-infer", device="cpu", hydra_overrides_extra=[f"model.image_size={SIDE}"])
    model.load_state_dict(parity_weights())
    gather = model.memory_prompt_generator.cross_attn.k_proj  # used in float32
    gather.load_state_dict({name: weight.bfloat16() for name, weight in gather.state_dict().items()})
    logits, casts = track_three(once)
    wanted, all_casts = track_three(I2VPPVideoPredictor(model, dtype=torch.bfloat16))
    not_run = {"image_encoder.trunk_image.head", "image_encoder.trunk_video.integration2temporal_nets.2.fuse.0",
               "mask_downsample", *(f"memory_attention.layers.{i}.mask_conv" for i in range(4))}  # fmt: skip
    rounded = {name for name, weight in once.model.named_parameters() if weight.dtype == torch.bfloat16}
    in_float32 = "memory_prompt_generator.cross_attn.k_proj"
    kept = "memory_prompt_generator.cross_attn.q_proj"  # its results depend on weights alone
    assert layers(casts) <= {in_float32}
    assert layers(all_casts) == layers(rounded) - not_run - {in_float32, kept}
    assert torch.equal(logits, wanted)


class Inputs(TorchDispatchMode):
    """Collects, in its `with` block, what an operation reads."""

    def __init__(self, operation: Any) -> None:
        super().__init__()
        self.tensors: list[Tensor] = []
        self._operation = operation

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is self._operation:
            self.tensors.append(args[0])
        return func(*args, **(kwargs or {}))


def read_on_a_frame(operation: Any, dtype: str) -> list[Tensor]:
    """What an operation reads while one object is tracked on one frame."""
    predictor = make_predictor(dtype=dtype)
    with predictor.init_state(FRAMES) as state:
        add_objects(predictor, state, 1)
        with Inputs(operation) as inputs:
            predictor.track_frame(state, 1)
    return inputs.tensors


def recognised(x: Tensor) -> bool:
    """Whether PyTorch sees that a channels-last map is one, by the stride of its batch of 1."""
    return not x.is_contiguous(memory_format=torch.channels_last) or x.stride(0) >= x.shape[1:].numel()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_convolutions_recognise_the_maps_of_one_object(dtype: str) -> None:
    assert not recognised(torch.ones(1, 24, 8).transpose(1, 2).unflatten(2, (4, 6)))
    maps = [x for x in read_on_a_frame(torch.ops.aten.convolution.default, dtype) if x.dim() == 4 and len(x) == 1]
    assert len(maps) > 100
    assert all(map(recognised, maps))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gelus_read_contiguous_memory(dtype: str) -> None:
    """PyTorch's quick kernel for CPUs takes nothing else."""
    read = read_on_a_frame(torch.ops.aten.gelu.default, dtype)
    assert len(read) > 50
    assert all(x.is_contiguous() for x in read)


# ---- decoding


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """600 frames, a keyframe every 12."""
    options = {"g": "12", "keyint_min": "12", "sc_threshold": "0", "preset": "ultrafast"}
    return write_video(tmp_path_factory.mktemp("video") / "long.mp4", numbered(600), options=options)


def test_the_first_mask_decodes_what_it_needs(
    predictor: I2VPPVideoPredictor, long_video: Path, decoded: list[int]
) -> None:
    with predictor.init_state(long_video) as state:
        assert not decoded
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        assert decoded == [0]
        assert state.source.known_length is None


@pytest.mark.parametrize(
    ("frame_idx", "needed"), [(300, range(288, 301)), (305, range(300, 306)), (301, range(288, 302))]
)
def test_the_first_mask_in_the_middle_decodes_from_the_keyframe_before(
    predictor: I2VPPVideoPredictor, long_video: Path, decoded: list[int], frame_idx: int, needed: range
) -> None:
    """The network sees the two frames before, which may belong to the group of pictures before."""
    with predictor.init_state(long_video) as state:
        predictor.add_new_points_or_box(state, frame_idx, 1, **CLICK)
        assert decoded == [0, *needed]  # frame 0 for the size


def test_a_frame_past_the_end_is_refused_without_decoding(
    predictor: I2VPPVideoPredictor, long_video: Path, decoded: list[int]
) -> None:
    with predictor.init_state(long_video) as state:
        with pytest.raises(PromptError, match="frame_idx=600 is past the end: the video has 600 frames"):
            predictor.add_new_points_or_box(state, 600, 1, **CLICK)
        assert decoded == [0]


def test_frames_are_read_and_converted_once(
    predictor: I2VPPVideoPredictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Image files that an iterator names: whether there is one more is known without reading it."""
    paths = [tmp_path / f"{i}.png" for i in range(8)]
    for path, frame in zip(paths, FRAMES, strict=False):
        Image.fromarray(frame).save(path)
    opened = []
    open_image = Image.open
    monkeypatch.setattr(Image, "open", lambda path: opened.append(path.stem) or open_image(path))
    with predictor.init_state(iter(paths)) as state:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        assert len(list(predictor.propagate_in_video(state, progress=False))) == 8
    assert opened == ["0", *"01234567"]  # frame 0 tells the size, too


# ---- memory


def live_tensors() -> tuple[int, int]:
    """Number and bytes of all tensors of the process, but for those that the compiler's own work leaves behind."""
    gc.collect()
    tensors = [x for x in gc.get_objects() if type(x) in (Tensor, torch.nn.Parameter)]  # some warn when asked more
    return len(tensors), sum({x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}.values())


def held_by_stream(predictor: I2VPPVideoPredictor, at: tuple[int, ...]) -> list[tuple[object, ...]]:
    """What a session and the process hold after some frames of a stream of two objects."""
    held: list[tuple[object, ...]] = []
    with predictor.init_stream() as stream:
        for i in range(max(at) + 1):
            stream.step(FRAMES[i % len(FRAMES)])
            if i == 0:
                add_objects(predictor, stream.state, 2)
            if i in at:
                held.append((stream.state.memory_use(), *live_tensors()))
    return held


def test_a_stream_holds_the_same_at_any_time(predictor: I2VPPVideoPredictor) -> None:
    """From the frame on at which all windows are full."""
    early, first, *later = held_by_stream(predictor, (16, 25, 26, 40, 59))
    assert early[0] == first[0]
    assert later == [first] * 3


@pytest.mark.slow
def test_a_stream_with_the_published_windows_holds_the_same_at_any_time() -> None:
    early, first, late = held_by_stream(make_shallow(make_predictor(dtype="float32")), (230, 280, 330))
    assert early[0] == first[0]
    assert first == late


def test_memory_of_a_session_is_what_the_documentation_says(predictor: I2VPPVideoPredictor) -> None:
    """Bytes per frame and object; docs/performance.md has them for other sizes."""
    memory, record, compact = 129 * CELLS + 1024, 96 * CELLS + 1024 + 8, 32 * CELLS + 1024 + 8
    with predictor.init_state(FRAMES) as state:
        add_objects(predictor, state, 2)
        for i in range(30):
            predictor.track_frame(state, i)
        use = state.memory_use()
        kept = 1 + WINDOW + 1  # the prompted frame, the window and the present frame
        assert use.memories == 2 * kept * memory
        assert use.records == 2 * (kept * record + (30 - kept) * compact)
        assert use.similarity == (WINDOW + 1) * 1024 * CELLS + 29 * 4 * WINDOW
        assert use.total == use.memories + use.records + use.similarity + use.features + use.frames
        predictor.reset_state(state)
        assert state.memory_use().memories == state.memory_use().records == 0
    assert state.memory_use().total == 0


def test_a_session_may_leave_inference_mode(predictor: I2VPPVideoPredictor) -> None:
    """Keys that are held are replaced in either mode."""
    with predictor.init_state(FRAMES) as state, predictor.init_state(FRAMES) as plain:
        for one in (state, plain):
            add_objects(predictor, one, 1)
        with torch.inference_mode():
            for i in range(14):
                predictor.track_frame(state, i)
        for i in range(14):
            predictor.track_frame(plain, i)
        for i in range(14, 18):
            assert torch.equal(predictor.track_frame(state, i).masks, predictor.track_frame(plain, i).masks)


# ---- copies to the CPU that take their time


@pytest.fixture
def arrivals(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether copies to the CPU have arrived: the last entry says so for all of them; waiting makes them arrive."""
    there = [True]
    arrived = CpuCopy.arrived
    monkeypatch.setattr(CpuCopy, "arrived", lambda copy: arrived(copy) if there[-1] else None)
    return there


def has_moved(record: FrameRecord) -> bool:
    """Whether a compact record, of one of two objects, has left the storage they share on the device."""
    return record.logits is None and record.decoded.untyped_storage().nbytes() == record.decoded.nbytes


def test_records_are_read_on_the_device_until_their_copies_arrive(
    predictor: I2VPPVideoPredictor, arrivals: list[bool]
) -> None:
    with predictor.init_state(FRAMES) as state:
        add_objects(predictor, state, 2)
        for i in range(12):
            predictor.track_frame(state, i)
        records = state.tracks[0].records
        settled = records[1]
        assert has_moved(settled)
        arrivals.append(False)
        for i in range(12, 14):
            predictor.track_frame(state, i)
        under_way = [records[2], records[3]]
        assert all(record.logits is None and not has_moved(record) for record in under_way)
        predictor.clear_all_prompts_in_frame(state, 2, 0)  # nothing is prompted there: it stays
        state.tracks[0].forget(3)
        arrivals.append(True)
        predictor.track_frame(state, 14)
        assert records[1] is settled
        assert has_moved(records[2])
        assert 3 not in records
        assert torch.equal(records[2].decoded, under_way[0].decoded)
        assert torch.equal(records[2].pointer, under_way[0].pointer)
        assert torch.equal(records[2].iou, under_way[0].iou)
        assert torch.equal(records[2].object_score, under_way[0].object_score)


def test_few_copies_are_under_way_at_a_time(predictor: I2VPPVideoPredictor, arrivals: list[bool]) -> None:
    with predictor.init_state(FRAMES) as state:
        add_objects(predictor, state, 2)
        arrivals.append(False)
        for i in range(30):
            predictor.track_frame(state, i)
        moved = [f for f, record in state.tracks[0].records.items() if has_moved(record)]
        assert moved == list(range(1, 30 - WINDOW - 1 - COPIES_UNDER_WAY))
