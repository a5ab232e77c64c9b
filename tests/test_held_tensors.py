"""What somebody holds is never overwritten: what a session remembers, what it was given, and what it gave.

Every script of a session is played four times: as it is; with copies made of everything that parts hand to each other;
by a user who writes into everything that was given and taken; and beside another session, in another thread. All give
the same masks bit for bit. Windows are of three frames, so that memories are forgotten and made again all the time.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from i2vpp.execution.runner import ObjectOutput
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.memory.bank import MemoryBank
from i2vpp.memory.similarity import SimilarityTable
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.modeling.inference import FromWeights
from i2vpp.session.frames import FrameStore
from i2vpp.session.records import FrameRecord
from i2vpp.session.state import InferenceState
from i2vpp.structures import FrameResult
from i2vpp.tracking import Tracker
from media import moving_disc
from models import encode_once, make_predictor

NUM_FRAMES = 14
FRAMES, MASKS = moving_disc(NUM_FRAMES, seed=3)
SMALL_WINDOWS = (
    "model.selection.global_window=2", "model.selection.local_window=1",
    "model.selection.num_global=1", "model.selection.num_local=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def predictor() -> I2VPPVideoPredictor:
    return encode_once(make_predictor(*SMALL_WINDOWS, dtype="float32"))


# ---- how a user holds and treats what goes in and comes out


class User:
    """Keeps copies of all results, taken when they came, and the results themselves.

    Args:
        vandal: overwrites what was given as soon as the call has returned, and what came back as soon as it is copied.
    """

    def __init__(self, *, vandal: bool = False) -> None:
        self.vandal = vandal
        self.results: list[FrameResult] = []
        self.copies: list[list[Tensor]] = []

    def take(self, result: FrameResult) -> FrameResult:
        """Keep a result."""
        self.copies.append([x.clone() for x in _tensors(result)])
        self.results.append(result)
        if self.vandal:
            result.obj_ids.clear()
            for tensor in _tensors(result):
                tensor.fill_(torch.nan)
        return result

    def give(self, call: Callable[..., FrameResult], *args: Any, **prompt: Any) -> None:
        """Call with arrays of one's own, and keep the result."""
        own = {name: np.array(value) for name, value in prompt.items()}
        self.take(call(*args, **own))
        if self.vandal:
            for array in own.values():
                array[...] = 1

    def check(self) -> None:
        """No result has changed since it came."""
        if not self.vandal:
            for result, copies in zip(self.results, self.copies, strict=True):
                for now, then in zip(_tensors(result), copies, strict=True):
                    assert now.equal(then) or bool((now.isnan() & then.isnan() | (now == then)).all()), result.frame_idx


def _tensors(result: FrameResult) -> tuple[Tensor, ...]:
    return result.masks, result.object_scores, result.predicted_ious


# ---- scripts


class Script:
    """What a user does in a session, in short words."""

    def __init__(self, predictor: I2VPPVideoPredictor, state: InferenceState, user: User) -> None:
        self.predictor, self.state, self.user = predictor, state, user

    def click(self, frame: int, obj_id: int, x: int, y: int, label: int = 1, *, add: bool = False) -> None:
        """Prompt with a click."""
        add_clicks = self.predictor.add_new_points_or_box
        prompt = {"points": np.array([[x, y]], np.float32), "labels": np.array([label], np.int32)}
        self.user.give(lambda **own: add_clicks(self.state, frame, obj_id, clear_old_points=not add, **own), **prompt)

    def box(self, frame: int, obj_id: int, *corners: int) -> None:
        """Prompt with a box."""
        add = self.predictor.add_new_points_or_box
        self.user.give(lambda box: add(self.state, frame, obj_id, box=box), box=np.array(corners, np.float32))

    def mask(self, frame: int, obj_id: int) -> None:
        """Prompt with the right mask."""
        self.user.give(lambda mask: self.predictor.add_new_mask(self.state, frame, obj_id, mask), mask=MASKS[frame])

    def go(self, start: int | None = None, count: int | None = None, **way: Any) -> None:
        """Propagate, and look at every frame with its masks."""
        for result in self.predictor.propagate_in_video(self.state, start, count, progress=False, **way):
            self.user.take(result)
            if self.user.vandal:
                self.state.frame(result.frame_idx)[:] = 7  # drawn on


def again_from_the_middle(play: Script) -> None:
    play.click(0, 1, 12, 24)
    play.go()
    for _ in range(2):
        play.go(start=9)
    play.go(start=7, count=3)
    play.go(start=5)


def both_directions(play: Script) -> None:
    play.mask(7, 1)
    play.go(both=True)
    play.go(start=11, reverse=True)
    play.go(start=4)
    play.go(start=9, count=5, reverse=True)


def corrections(play: Script) -> None:
    play.box(0, 1, 4, 16, 20, 32)
    play.go()
    play.click(2, 1, 40, 30)
    play.go(start=2)
    play.click(11, 1, 20, 12, 0)
    play.click(11, 1, 44, 24, add=True)
    play.go(start=9)
    play.mask(6, 1)
    play.go(start=6, reverse=True)
    play.user.take(play.predictor.clear_all_prompts_in_frame(play.state, 6, 1) or pytest.fail("no result"))
    play.go(start=5)


def objects_come_and_go(play: Script) -> None:
    for obj_id in (1, 2, 3):
        play.click(0, obj_id, 12 * obj_id, 24)
    play.go(count=9)
    play.mask(7, 4)
    play.go(start=7)
    play.predictor.remove_object(play.state, 2)
    play.go(start=6, count=3)
    play.click(11, 2, 30, 30)
    play.go(start=10, count=6, reverse=True)
    play.predictor.remove_object(play.state, 1)
    play.go(start=5, count=3)
    play.predictor.reset_state(play.state)
    play.click(4, 1, 20, 24)
    play.go(count=5)


SCRIPTS = [again_from_the_middle, both_directions, corrections, objects_come_and_go]


def play(script: Callable[[Script], None], predictor: I2VPPVideoPredictor, **options: Any) -> list[list[Tensor]]:
    """Play a script on the offline video, and return copies of all results."""
    user = User(vandal=options.pop("vandal", False))
    with predictor.init_state([frame.copy() for frame in FRAMES], **options) as state:
        script(Script(predictor, state, user))
        user.check()
    user.check()
    return user.copies


def stream(predictor: I2VPPVideoPredictor, *, vandal: bool = False) -> list[list[Tensor]]:
    """A camera that uses one buffer for all frames; objects come, are corrected and go."""
    user, buffer = User(vandal=vandal), np.empty_like(FRAMES[0])
    with predictor.init_stream() as live:
        for t, frame in enumerate([*FRAMES, *FRAMES[::-1][:10]]):
            buffer[:] = frame
            user.take(live.step(buffer))
            if t == 0:
                user.give(live.add_new_points_or_box, 1, points=[[12, 24]], labels=[1])
            if t == 7:
                user.give(live.add_new_mask, 2, mask=MASKS[7])
            if t == 12:
                user.give(live.add_new_points_or_box, 1, points=[[40, 40]], labels=[0])
            if t == 16:
                live.remove_object(1)
            if t == 19:
                user.give(live.add_new_points_or_box, 3, box=[20, 10, 50, 40])
            if vandal:
                live.state.frame(t)[:] = 7
            buffer[:] = 99
        user.check()
    user.check()
    return user.copies


def assert_equal(a: list[list[Tensor]], b: list[list[Tensor]]) -> None:
    assert len(a) == len(b)
    for i, (ours, theirs) in enumerate(zip(a, b, strict=True)):
        for x, y in zip(ours, theirs, strict=True):
            assert torch.equal(x.nan_to_num(), y.nan_to_num()), f"result {i}"


# ---- copies of everything


def copied(value: Any) -> Any:
    """A tensor, or a dataclass or tuple of tensors, with storage of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, ObjectOutput):
        return ObjectOutput(*map(copied, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.replace(value, **{f.name: copied(getattr(value, f.name)) for f in dataclasses.fields(value)})
    if isinstance(value, (tuple, list)):
        return type(value)(map(copied, value))
    return value


@contextmanager
def everything_copied() -> Iterator[dict[str, int]]:
    """Have everything copied that goes from one part of a session to another; yields how often each way was taken."""
    counts: dict[str, int] = {}
    with pytest.MonkeyPatch.context() as patch:

        def copy_results(owner: type, name: str) -> None:
            original = getattr(owner, name)

            def call(*args: Any, **kwargs: Any) -> Any:
                counts[name] = counts.get(name, 0) + 1
                return copied(original(*args, **kwargs))

            patch.setattr(owner, name, call)

        def copy_arguments(owner: type, name: str) -> None:
            original = getattr(owner, name)

            def call(self: Any, *args: Any, **kwargs: Any) -> Any:
                counts[name] = counts.get(name, 0) + 1
                return original(self, *map(copied, args), **{key: copied(value) for key, value in kwargs.items()})

            patch.setattr(owner, name, call)

        copy_arguments(MemoryBank, "put")
        copy_results(MemoryBank, "fetch")
        copy_results(FrameRecord, "prediction")
        copy_results(ObjectOutput, "split")
        copy_results(FrameStore, "clip")
        copy_results(Tracker, "features")
        copy_results(Tracker, "_mask")
        copy_arguments(SimilarityTable, "add")
        copy_results(SimilarityTable, "get")
        copy_results(I2VPP, "encode_memory")
        yield counts


@pytest.mark.parametrize("script", SCRIPTS)
def test_copies_of_everything_change_nothing(script: Callable[[Script], None], predictor: I2VPPVideoPredictor) -> None:
    plain = play(script, predictor)
    with everything_copied() as counts:
        assert_equal(plain, play(script, predictor))
    assert len(counts) == 10
    assert_equal(plain, play(script, predictor, vandal=True))


def test_copies_of_everything_change_no_stream(predictor: I2VPPVideoPredictor) -> None:
    plain = stream(predictor)
    with everything_copied():
        assert_equal(plain, stream(predictor))
    assert_equal(plain, stream(predictor, vandal=True))


@pytest.mark.parametrize("overrides", [("model.fill_hole_area=0",), ("model.selection.mode=recent",)])
def test_other_configurations(overrides: tuple[str, ...]) -> None:
    """Without holes to be filled, masks as they are decoded and as they are returned are the same tensor."""
    predictor = encode_once(make_predictor(*SMALL_WINDOWS, *overrides, dtype="float32"))
    plain = play(corrections, predictor)
    with everything_copied():
        assert_equal(plain, play(corrections, predictor))
    assert_equal(plain, play(corrections, predictor, vandal=True))


def test_sessions_in_threads_do_not_touch_each_other(predictor: I2VPPVideoPredictor) -> None:
    """One network, two dtypes, four sessions at a time."""
    other = I2VPPVideoPredictor(predictor.model, dtype=torch.bfloat16)
    work: list[Callable[[], list[list[Tensor]]]] = [
        lambda: play(corrections, predictor),
        lambda: play(objects_come_and_go, other),
        lambda: stream(predictor),
        lambda: play(both_directions, other),
    ]

    def on_one_core(task: Callable[[], list[list[Tensor]]]) -> list[list[Tensor]]:
        torch.set_num_threads(1)  # each thread has a number of its own, on which the last bits depend
        return task()

    alone = [on_one_core(task) for task in work]
    with ThreadPoolExecutor(len(work)) as threads:
        together = list(threads.map(on_one_core, work))
    for a, b in zip(alone, together, strict=True):
        assert_equal(a, b)


# ---- what is held stays


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_was_once_remembered_is_never_written_to(
    script: Callable[[Script], None], predictor: I2VPPVideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever still holds a memory or a record, of whatever age, finds in it what was put there."""
    held: list[tuple[Tensor, Tensor]] = []

    def hold(*tensors: Tensor) -> None:
        held.extend((x, x.clone()) for x in tensors)

    put, keep = MemoryBank.put, InferenceState.keep_features

    def put_and_hold(self: MemoryBank, frame_idx: int, memory: Any, *, conditioning: bool) -> None:
        put(self, frame_idx, memory, conditioning=conditioning)
        hold(*self.tensors())

    def keep_and_hold(self: InferenceState, frame_idx: int, features: Any) -> None:
        keep(self, frame_idx, features)
        hold(features.embedding, features.position)
        for track in self.tracks.values():
            hold(*(x for record in track.records.values() for x in record.tensors()))

    monkeypatch.setattr(MemoryBank, "put", put_and_hold)
    monkeypatch.setattr(InferenceState, "keep_features", keep_and_hold)
    play(script, predictor)
    assert len(held) > 1000
    assert all(torch.equal(now, then) for now, then in held)


def test_a_second_run_from_the_middle_is_the_first_one(predictor: I2VPPVideoPredictor) -> None:
    """The memories before it are made again from records, which a run may not change."""
    with predictor.init_state(FRAMES) as state:
        predictor.add_new_points_or_box(state, 0, 1, points=[[12, 24]], labels=[1])
        for _ in predictor.propagate_in_video(state, progress=False):
            pass
        pointers = {f: record.pointer.clone() for f, record in state.tracks[1].records.items()}
        runs = [[result.masks for result in predictor.propagate_in_video(state, 9, progress=False)] for _ in range(3)]
        for f in range(9):
            assert torch.equal(state.tracks[1].records[f].pointer, pointers[f])
    assert torch.equal(torch.cat(runs[0]), torch.cat(runs[1]))
    assert torch.equal(torch.cat(runs[0]), torch.cat(runs[2]))


def test_a_selector_may_write_into_the_similarities_it_is_given(predictor: I2VPPVideoPredictor) -> None:
    """Objects that ask for the same frames are not given the same array."""
    seen: list[np.ndarray] = []

    class Greedy:
        window, uses_similarity = predictor.selector.window, True

        def select(self, now: Any, conditioning: Any, non_conditioning: Any, similarity: Any) -> Any:
            frames = [f for f in now.span(3, 1) if f in non_conditioning]
            if frames:
                values = similarity(frames)
                seen.append(values.copy())
                values[:] = 5
            return predictor.selector.select(now, conditioning, non_conditioning, similarity)

    greedy = I2VPPVideoPredictor(predictor.model, selector=Greedy())
    with greedy.init_state(FRAMES[:6]) as state:
        for obj_id in (1, 2):
            greedy.add_new_points_or_box(state, 0, obj_id, points=[[12, 24]], labels=[1])
        for _ in greedy.propagate_in_video(state, progress=False):
            pass
    assert len(seen) == 8
    assert all(np.abs(values).max() <= 1.01 for values in seen)
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert np.array_equal(first, second)


# ---- what is computed from weights


def test_weights_that_take_the_place_of_others_are_not_taken_for_them() -> None:
    """Weights are known by where they lie: their storage is not free for others as long as what was made is kept."""
    kept, numbers = FromWeights(), np.ones(3, np.float32)
    weight, storage = torch.nn.Parameter(torch.from_numpy(numbers)), weakref.ref(numbers)
    del numbers
    with torch.no_grad():
        (double,) = kept(lambda: (weight * 2,), weight)
        assert kept(lambda: (weight * 2,), weight)[0] is double
        weight.data = torch.full((3,), 3.0)
        assert storage() is not None
        assert float(kept(lambda: (weight * 2,), weight)[0][0]) == 6
        assert storage() is None


def test_threads_of_two_dtypes_get_what_is_made_of_weights_in_theirs() -> None:
    """Each gets its own, even if the other one comes whenever something has just been kept."""
    weight = torch.nn.Parameter(torch.ones(3))

    def ask(dtype: torch.dtype) -> torch.dtype:
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            return kept(lambda: (weight + 0,), weight)[0].dtype

    class Interrupted(FromWeights):
        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if others:
                found.append(ask(others.pop()))

    others: list[torch.dtype] = []
    found: list[torch.dtype] = []
    kept = Interrupted()
    for _ in range(2):
        others.append(torch.bfloat16)
        assert ask(torch.float32) == torch.float32
        assert found.pop() == torch.bfloat16
        assert ask(torch.float32) == torch.float32
        assert ask(torch.bfloat16) == torch.bfloat16
