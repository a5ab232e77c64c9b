"""The predictor's behaviour over a session's life, on a small network with reproducible weights."""

from __future__ import annotations

import gc
import threading
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.errors import FrameDecodeError, PromptError, SessionError
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from i2vpp.session.state import InferenceState
from i2vpp.structures import FrameResult
from media import moving_disc
from models import iou, make_predictor, make_shallow

NUM_FRAMES = 16
FRAMES, MASKS = moving_disc(NUM_FRAMES, seed=3)
CLICK = {"points": [[12, 24]], "labels": [1]}


@pytest.fixture(scope="module")
def predictor(device: torch.device) -> I2VPPVideoPredictor:
    return make_predictor(device=device, dtype="float32")


@pytest.fixture
def state(predictor: I2VPPVideoPredictor) -> Iterator[InferenceState]:
    with predictor.init_state(FRAMES) as state:
        yield state


def track(predictor: I2VPPVideoPredictor, state: InferenceState, **kwargs: Any) -> dict[int, FrameResult]:
    return {r.frame_idx: r for r in predictor.propagate_in_video(state, progress=False, **kwargs)}


def assert_same(a: dict[int, FrameResult], b: dict[int, FrameResult]) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[f].masks, b[f].masks) for f in a)


def assert_alike(a: dict[int, torch.Tensor], b: dict[int, torch.Tensor]) -> None:
    """Masks of one object over a whole run: other batches round differently, no more."""
    x, y = torch.stack([a[f] for f in sorted(a)]), torch.stack([b[f] for f in sorted(b)])
    assert iou(x, y) >= 0.999
    assert float(((x - y).abs() < 1e-3).float().mean()) > 0.99  # but for holes, filled or not


def of_object(results: dict[int, FrameResult], index: int) -> dict[int, torch.Tensor]:
    return {f: result.masks[index] for f, result in results.items()}


def test_results_have_the_videos_size_and_scores(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    frame_idx, obj_ids, masks = predictor.add_new_points_or_box(state, 0, 7, **CLICK)
    assert (frame_idx, obj_ids) == (0, [7])
    assert masks.shape == (1, 1, 48, 64)
    assert masks.dtype == torch.float32
    predictor.add_new_mask(state, 0, 2, MASKS[0])
    results = track(predictor, state)
    assert list(results) == list(range(NUM_FRAMES))
    for result in results.values():
        assert result.obj_ids == [7, 2]
        assert result.masks.shape == (2, 1, 48, 64)
        assert result.object_scores.shape == result.predicted_ious.shape == (2,)
        assert ((result.predicted_ious >= 0) & (result.predicted_ious <= 1)).all()
    assert results[0].predicted_ious[1] == 1
    assert results[0].object_scores[1] == 10


def test_two_runs_agree(predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
    predictor.add_new_points_or_box(state, 0, 1, **CLICK)
    first = track(predictor, state)
    predictor.reset_state(state)
    assert state.obj_ids == []
    torch.manual_seed(123)  # the global generator has no say
    predictor.add_new_points_or_box(state, 0, 1, **CLICK)
    assert_same(first, track(predictor, state))


def test_the_seed_has_a_say() -> None:
    runs = []
    for seed in (0, 1):
        predictor = make_predictor(f"model.selection.seed={seed}")
        with predictor.init_state(FRAMES) as state:
            predictor.add_new_points_or_box(state, 0, 1, **CLICK)
            runs.append(track(predictor, state)[NUM_FRAMES - 1].masks)
    assert not torch.equal(*runs)


@pytest.mark.parametrize(("kwargs", "frames"), [
    ({}, range(5, 16)),
    ({"start_frame_idx": 3}, range(3, 16)),
    ({"max_frame_num_to_track": 4}, range(5, 10)),
    ({"start_frame_idx": 9, "max_frame_num_to_track": 0}, [9]),
    ({"reverse": True}, range(5, -1, -1)),
    ({"start_frame_idx": 15, "max_frame_num_to_track": 2, "reverse": True}, [15, 14, 13]),
    ({"both": True}, [*range(5, 16), *range(4, -1, -1)]),
    ({"both": True, "max_frame_num_to_track": 2}, [5, 6, 7, 4, 3]),
    ({"both": True, "start_frame_idx": 0}, range(16)),
])  # fmt: skip
def test_which_frames_are_tracked(
    predictor: I2VPPVideoPredictor, state: InferenceState, kwargs: dict, frames: list[int]
) -> None:
    predictor.add_new_points_or_box(state, 5, 1, **CLICK)
    assert list(track(predictor, state, **kwargs)) == list(frames)


def test_reverse_on_the_reversed_video_equals_forward(
    predictor: I2VPPVideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an encoder that sees single frames; the real one reads clips in video order."""
    encode = predictor.model.encode
    monkeypatch.setattr(predictor.model, "encode", lambda clip: encode(clip[:, :, -1:].expand(-1, -1, 3, -1, -1)))
    last = NUM_FRAMES - 1
    with predictor.init_state(FRAMES) as forward, predictor.init_state(FRAMES[::-1]) as backward:
        for state, frame_idx in ((forward, 0), (backward, last)):
            predictor.add_new_points_or_box(state, frame_idx, 1, **CLICK)
        there = track(predictor, forward)
        back = track(predictor, backward, start_frame_idx=last, reverse=True)
        assert list(back) == list(range(last, -1, -1))
        assert_same(there, {last - f: result for f, result in back.items()})


def test_reverse_reads_what_it_has_just_tracked(
    predictor: I2VPPVideoPredictor, state: InferenceState, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {}
    select = predictor.selector.select

    def spy(now: Any, *args: Any) -> Any:
        selection = select(now, *args)
        read[now.frame_idx] = [pick.frame_idx for pick in selection.spatial]
        return selection

    monkeypatch.setattr(predictor.selector, "select", spy)
    predictor.add_new_points_or_box(state, 15, 1, **CLICK)
    track(predictor, state, start_frame_idx=15, reverse=True)
    assert read[14] == [15]
    assert read[13] == [15, 14]
    assert len(read[0]) == 7
    assert min(read[0][1:]) > 0


class TestObjects:
    def test_five_together_equal_five_alone(self, predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
        prompts = {i: {"points": [[8 + 10 * i, 24]], "labels": [1]} for i in range(4)}
        for obj_id, prompt in prompts.items():
            predictor.add_new_points_or_box(state, 0, obj_id, **prompt)
        predictor.add_new_mask(state, 2, 4, MASKS[2])  # another memory, another batch
        together = track(predictor, state)
        for obj_id in range(5):
            with predictor.init_state(FRAMES) as own:
                if obj_id == 4:
                    predictor.add_new_mask(own, 2, 4, MASKS[2])
                else:
                    predictor.add_new_points_or_box(own, 0, obj_id, **prompts[obj_id])
                alone = track(predictor, own, start_frame_idx=0)
            assert_alike(of_object(alone, 0), of_object(together, obj_id))

    def test_the_encoder_runs_once_per_frame(
        self, predictor: I2VPPVideoPredictor, state: InferenceState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        encode = predictor.model.encode
        monkeypatch.setattr(predictor.model, "encode", lambda clip: calls.append(1) or encode(clip))
        for obj_id in range(3):
            predictor.add_new_points_or_box(state, 0, obj_id, **CLICK)
        track(predictor, state)
        assert len(calls) == NUM_FRAMES

    def test_similarities_are_looked_up_once_per_frame(
        self, predictor: I2VPPVideoPredictor, state: InferenceState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = Counter()
        get = state.similarity.get
        monkeypatch.setattr(state.similarity, "get", lambda f, others: asked.update([f]) or get(f, others))
        for obj_id in range(3):
            predictor.add_new_points_or_box(state, 0, obj_id, **CLICK)
        track(predictor, state)
        assert asked == Counter(range(4, NUM_FRAMES))  # from 3 tracked frames on; all are in the local window

    def test_added_after_tracking(self, predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        before = track(predictor, state)
        result = predictor.add_new_mask(state, 8, 2, MASKS[8])
        assert result.obj_ids == [1, 2]
        assert torch.equal(result.masks[0], before[8].masks[0])
        after = track(predictor, state)
        assert_alike(of_object(after, 0), of_object(before, 0))  # the first is untouched
        with predictor.init_state(FRAMES) as own:
            predictor.add_new_mask(own, 8, 2, MASKS[8])
            alone = track(predictor, own, start_frame_idx=0)
        assert_alike(of_object(alone, 0), of_object(after, 1))

    def test_not_prompted_is_not_absent(self, predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        track(predictor, state)
        result = predictor.add_new_mask(state, 8, 2, MASKS[8])
        assert result.object_scores[0] > 0
        predictor.add_new_points_or_box(state, 4, 3, **CLICK)
        assert list(state.tracks[1].bank.conditioning) == [0]

    def test_unknown_on_a_frame(self, predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        result = predictor.add_new_points_or_box(state, 5, 2, **CLICK)
        assert (result.masks[0] == -1024).all()
        assert result.object_scores.isnan().tolist() == [True, False]

    def test_removed(self, predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        predictor.add_new_mask(state, 0, 2, MASKS[0])
        both = track(predictor, state)
        ids, updated = predictor.remove_object(state, 1)
        assert ids == [2]
        assert [f for f, _ in updated] == [0]
        assert torch.equal(updated[0][1], both[0].masks[1:])
        rest = track(predictor, state)
        assert_alike(of_object(rest, 0), of_object(both, 1))
        assert predictor.remove_object(state, 1) == ([2], [])
        with pytest.raises(PromptError, match=r"no object 1 .*known objects: \[2\]"):
            predictor.remove_object(state, 1, strict=True)
        assert predictor.remove_object(state, 2) == ([], [])
        with pytest.raises(PromptError, match="Nothing to track"):
            predictor.propagate_in_video(state)


class TestCorrections:
    def test_changes_this_frame_at_once_and_the_following_ones_next(
        self, predictor: I2VPPVideoPredictor, state: InferenceState
    ) -> None:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        before = track(predictor, state)
        corrected = predictor.add_new_mask(state, 6, 1, MASKS[6])
        assert iou(corrected.masks[0, 0], torch.from_numpy(MASKS[6]).to(predictor.device)) > 0.8
        assert torch.equal(predictor.track_frame(state, 6).masks, corrected.masks)
        after = track(predictor, state, start_frame_idx=6)
        assert torch.equal(after[6].masks, corrected.masks)
        assert not torch.equal(after[7].masks, before[7].masks)

    def test_a_click_on_a_tracked_frame_reads_memory_and_the_mask_there(
        self, predictor: I2VPPVideoPredictor, state: InferenceState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        track(predictor, state)
        seen = {}
        condition, decode = predictor.model.condition_on_memory, predictor.model.decode

        def spy_condition(features: Any, memory: Any, **kwargs: Any) -> Any:
            seen["memory"] = memory
            return condition(features, memory, **kwargs)

        def spy_decode(conditioned: Any, prompt: Any, **kwargs: Any) -> Any:
            seen["prompt"] = prompt
            return decode(conditioned, prompt, **kwargs)

        monkeypatch.setattr(predictor.model, "condition_on_memory", spy_condition)
        monkeypatch.setattr(predictor.model, "decode", spy_decode)
        previous = state.tracks[1].records[9].logits
        predictor.add_new_points_or_box(state, 9, 1, points=[[30, 20]], labels=[0])
        assert seen["memory"] is not None
        assert torch.equal(seen["prompt"].mask, previous.clamp(-32, 32))
        assert list(state.tracks[1].bank.conditioning) == [0, 9]
        assert 9 not in state.tracks[1].bank
        predictor.add_new_points_or_box(state, 9, 2, **CLICK)  # for this object the frame is new
        assert seen["memory"] is None
        assert seen["prompt"].mask is None

    @pytest.mark.parametrize("clear", [True, False])
    def test_clicks_replace_or_add(self, predictor: I2VPPVideoPredictor, state: InferenceState, clear: bool) -> None:
        predictor.add_new_points_or_box(state, 0, 1, box=[5, 10, 30, 40], **CLICK)
        predictor.add_new_points_or_box(state, 0, 1, points=[[40, 8]], labels=[0], clear_old_points=clear)
        assert state.tracks[1].clicks[0].labels.tolist() == ([0] if clear else [2, 3, 1, 0])

    def test_a_mask_replaces_clicks_and_the_reverse(
        self, predictor: I2VPPVideoPredictor, state: InferenceState
    ) -> None:
        clicked = predictor.add_new_points_or_box(state, 0, 1, **CLICK).masks
        drawn = predictor.add_new_mask(state, 0, 1, MASKS[0]).masks
        assert drawn.max() == pytest.approx(10, abs=0.1)
        again = predictor.add_new_points_or_box(state, 0, 1, clear_old_points=False, **CLICK).masks
        assert state.tracks[1].clicks[0].labels.tolist() == [1]
        assert not torch.equal(again, clicked)  # it starts from the mask
        assert not torch.equal(again, drawn)

    def test_cleared(self, predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        before = track(predictor, state)
        predictor.add_new_mask(state, 6, 1, MASKS[6])
        result = predictor.clear_all_prompts_in_frame(state, 6, 1)
        assert (result.masks == -1024).all()
        assert_same(before, track(predictor, state))
        kept = predictor.clear_all_prompts_in_frame(state, 7, 1)  # nothing is prompted there
        assert torch.equal(kept.masks, before[7].masks)
        assert predictor.clear_all_prompts_in_frame(state, 0, 1, need_output=False) is None
        with pytest.raises(PromptError, match="Nothing to track"):
            predictor.propagate_in_video(state)

    def test_an_empty_mask_declares_the_object_absent(
        self, predictor: I2VPPVideoPredictor, state: InferenceState
    ) -> None:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        result = predictor.add_new_mask(state, 3, 1, np.zeros((48, 64), bool))
        assert result.object_scores[0] == -10
        assert (result.masks < 0).all()
        assert track(predictor, state)[3].object_scores[0] == -10

    @pytest.mark.slow
    def test_of_a_frame_long_gone(self, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
        """Frame 20 after 260: published windows; the frames that are read again are encoded again, no others."""
        predictor = make_shallow(make_predictor(device=device, dtype="float32"))
        frames, masks = moving_disc(261, seed=7)
        runs = []
        for evict in (True, False):
            if not evict:
                monkeypatch.setattr(InferenceState, "evict", lambda *_: None)
            with predictor.init_state(frames) as state:
                predictor.add_new_mask(state, 0, 1, masks[0])
                track(predictor, state)
                assert len(state.tracks[1].bank) == (1 + 211 if evict else 261)
                encoded = []
                encode = predictor.model.encode
                predictor.model.encode = lambda clip, encode=encode, to=encoded: to.append(1) or encode(clip)
                predictor.add_new_points_or_box(state, 20, 1, points=[[40, 30]], labels=[1])
                predictor.model.encode = encode
                assert len(encoded) == (1 + 6 if evict else 1)
                runs.append(track(predictor, state, start_frame_idx=20, max_frame_num_to_track=30))
        assert min(iou(runs[0][f].masks, runs[1][f].masks) for f in runs[0]) >= 0.99

    def test_of_evicted_frames(self, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
        """Short windows: after frame 15 the memories of frames 1 to 9 are gone, and made again when needed."""
        small = ("model.selection.global_window=4", "model.selection.local_window=2")
        predictor = make_predictor(*small, device=device, dtype="float32")
        runs, pointers = [], []
        for evict in (True, False):
            if not evict:
                monkeypatch.setattr(InferenceState, "evict", lambda *_: None)
            with predictor.init_state(FRAMES) as state:
                predictor.add_new_points_or_box(state, 0, 1, **CLICK)
                track(predictor, state)
                bank = state.tracks[1].bank
                assert len(bank) == (1 + 7 if evict else NUM_FRAMES)
                assert all(f in bank for f in range(1, NUM_FRAMES))
                pointers.append([state.tracks[1].records[f].pointer.clone() for f in range(NUM_FRAMES)])
                if evict:
                    assert state.tracks[1].records[1].logits is None
                predictor.add_new_points_or_box(state, 8, 1, points=[[40, 30]], labels=[1])
                runs.append(track(predictor, state, start_frame_idx=8))
        assert all(torch.equal(a, b) for a, b in zip(*pointers, strict=True))
        assert all(iou(runs[0][f].masks, runs[1][f].masks) >= 0.99 for f in runs[0])


class TestSessions:
    def test_interleaved_sessions_equal_each_alone(self, predictor: I2VPPVideoPredictor) -> None:
        def start(frames: list[np.ndarray]) -> tuple[InferenceState, Iterator[FrameResult]]:
            state = predictor.init_state(frames)
            predictor.add_new_points_or_box(state, 0, 1, **CLICK)
            return state, predictor.propagate_in_video(state, progress=False)

        videos = [FRAMES, FRAMES[::-1]]
        alone = [[r.masks for r in start(video)[1]] for video in videos]
        first, second = (start(video)[1] for video in videos)
        for a, b, x, y in zip(first, second, *alone, strict=True):
            assert torch.equal(a.masks, x)
            assert torch.equal(b.masks, y)

    def test_sessions_in_threads_equal_each_alone(self, predictor: I2VPPVideoPredictor) -> None:
        def run(video: list[np.ndarray], out: dict[int, list[torch.Tensor]], key: int) -> None:
            with predictor.init_state(video) as state:
                predictor.add_new_points_or_box(state, 0, 1, **CLICK)
                out[key] = [r.masks for r in predictor.propagate_in_video(state, progress=False)]

        videos = [FRAMES, FRAMES[::-1], FRAMES[5:]]
        alone: dict[int, list[torch.Tensor]] = {}
        threaded: dict[int, list[torch.Tensor]] = {}
        for key, video in enumerate(videos):
            run(video, alone, key)
        threads = [threading.Thread(target=run, args=(video, threaded, key)) for key, video in enumerate(videos)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for key in range(len(videos)):
            assert_alike(dict(enumerate(alone[key])), dict(enumerate(threaded[key])))

    def test_a_closed_session_holds_nothing(self, predictor: I2VPPVideoPredictor) -> None:
        with predictor.init_state(FRAMES) as state:
            predictor.add_new_points_or_box(state, 0, 1, **CLICK)
            results = predictor.propagate_in_video(state, progress=False)
            next(results)
            next(results)
            held = [weakref.ref(memory.values) for memory in state.tracks[1].bank._non_conditioning.values()]
            held += [weakref.ref(features.embedding) for features in state.features.values()]
            assert len(held) >= 2
        gc.collect()
        assert not any(ref() is not None for ref in held)
        with pytest.raises(SessionError, match="closed"):
            next(results)
        for use in (
            lambda: predictor.add_new_points_or_box(state, 0, 1, **CLICK),
            lambda: predictor.propagate_in_video(state),
            lambda: predictor.reset_state(state),
            lambda: predictor.remove_object(state, 1),
            lambda: state.frame(0),
        ):
            with pytest.raises(SessionError, match="closed"):
                use()
        state.close()

    def test_prompts_between_the_frames_of_a_propagation(
        self, predictor: I2VPPVideoPredictor, state: InferenceState
    ) -> None:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        seen = []
        for result in predictor.propagate_in_video(state, progress=False):
            seen.append(result.obj_ids)
            if result.frame_idx == 4:
                predictor.add_new_mask(state, 4, 2, MASKS[4])
            if result.frame_idx == 8:
                predictor.remove_object(state, 1)
        assert seen == [[1]] * 5 + [[1, 2]] * 4 + [[2]] * 7

    def test_offloaded_state_gives_the_same(self, predictor: I2VPPVideoPredictor, state: InferenceState) -> None:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        with predictor.init_state(FRAMES, offload_video_to_cpu=True, offload_state_to_cpu=True) as other:
            predictor.add_new_points_or_box(other, 0, 1, **CLICK)
            a, b = track(predictor, state), track(predictor, other)
            assert all(m.values.device.type == "cpu" for m in other.tracks[1].bank._non_conditioning.values())
        assert all(iou(a[f].masks, b[f].masks) >= 0.999 for f in a)


class TestLaziness:
    def test_only_the_frames_that_are_needed_are_read(self, predictor: I2VPPVideoPredictor) -> None:
        read = []

        def camera() -> Iterator[np.ndarray]:
            for i, frame in enumerate(FRAMES):
                read.append(i)
                yield frame

        with predictor.init_state(camera()) as state:
            assert read == []
            predictor.add_new_points_or_box(state, 2, 1, **CLICK)
            assert read == [0, 1, 2]
            results = predictor.propagate_in_video(state, progress=False)
            for expected in range(2, 6):
                assert next(results).frame_idx == expected
            assert len(read) <= 6
            assert [r.frame_idx for r in results] == list(range(6, NUM_FRAMES))

    def test_a_list_is_decoded_ahead_only_by_a_few(self, predictor: I2VPPVideoPredictor) -> None:
        read = Counter()

        class Spy(list):
            def __getitem__(self, i: int) -> np.ndarray:
                read[i] += 1
                return super().__getitem__(i)

        with predictor.init_state(Spy(FRAMES * 2)) as state:
            predictor.add_new_points_or_box(state, 0, 1, **CLICK)
            results = predictor.propagate_in_video(state, progress=False)
            next(results)
            assert max(read) <= 4
            assert len(list(results)) == 2 * NUM_FRAMES - 1
        assert max(read.values()) <= 2  # frame 0 tells the size as well


def test_a_broken_frame_in_the_middle(predictor: I2VPPVideoPredictor, tmp_path: Path) -> None:
    """What came before it stays, the error names it, and tracking goes on where the network can see again."""
    paths = []
    for i, frame in enumerate(FRAMES[:10]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(frame).save(paths[-1])
    paths[5].write_bytes(paths[5].read_bytes()[:200])
    with predictor.init_state(tmp_path) as state:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        results = {}
        with pytest.raises(FrameDecodeError, match=r"frame 5 .*5\.png"):
            for result in predictor.propagate_in_video(state, progress=False):
                results[result.frame_idx] = result
        assert list(results) == [0, 1, 2, 3, 4]
        assert state.tracks[1].records.keys() == results.keys()
        assert list(track(predictor, state, start_frame_idx=8)) == [8, 9]


def test_progress_can_be_replaced(predictor: I2VPPVideoPredictor, state: InferenceState, capsys: Any) -> None:
    predictor.add_new_points_or_box(state, 0, 1, **CLICK)
    seen = {}

    def bar(frames: Any, *, total: int | None, desc: str) -> Any:
        seen.update(total=total, desc=desc, frames=[])
        for frame in frames:
            seen["frames"].append(frame)
            yield frame

    list(predictor.propagate_in_video(state, progress=bar, max_frame_num_to_track=2))
    assert seen == {"total": 3, "desc": "propagate in video", "frames": [0, 1, 2]}
    assert capsys.readouterr().err == ""
    list(predictor.propagate_in_video(state, max_frame_num_to_track=2))
    assert "propagate in video: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_finds_the_same(device: torch.device, dtype: str) -> None:
    masks = {}
    for name in ("float32", dtype):
        predictor = make_predictor("model.selection.mode=top", device=device, dtype=name)
        with predictor.init_state(FRAMES) as state:
            predictor.add_new_mask(state, 0, 1, MASKS[0])
            masks[name] = track(predictor, state)[6].masks
    assert masks[dtype].dtype == torch.float32
    assert float((masks[dtype] - masks["float32"]).norm() / masks["float32"].norm()) < 0.25


def test_an_autocast_block_around_makes_no_difference(
    predictor: I2VPPVideoPredictor, state: InferenceState, device: torch.device
) -> None:
    predictor.add_new_points_or_box(state, 0, 1, **CLICK)
    plain = track(predictor, state, max_frame_num_to_track=3)
    with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16):
        predictor.reset_state(state)
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        wrapped = track(predictor, state, max_frame_num_to_track=3)
    assert_same(plain, wrapped)


@pytest.mark.parametrize("mode", ["top", "recent"])
def test_selection_modes(mode: str) -> None:
    predictor = make_predictor(f"++model.selection.mode={mode}")
    with predictor.init_state(FRAMES) as state:
        predictor.add_new_points_or_box(state, 0, 1, **CLICK)
        assert len(track(predictor, state)) == NUM_FRAMES
        assert (len(state.similarity._rows) > 0) == (mode == "top")


def test_a_selector_of_ones_own(predictor: I2VPPVideoPredictor) -> None:
    from i2vpp.memory.selection import RecentFrames

    class OnlyPrompts(RecentFrames):
        def __init__(self) -> None:
            super().__init__(num_frames=0, max_pointers=2)

    own = make_predictor(selector=OnlyPrompts())
    with own.init_state(FRAMES) as state:
        own.add_new_points_or_box(state, 0, 1, **CLICK)
        assert len(track(own, state)) == NUM_FRAMES
        assert len(state.tracks[1].bank) <= 3
