"""Which frames are read as memory."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from i2vpp.config import SelectionConfig
from i2vpp.memory.cpu_copy import CpuCopy
from i2vpp.memory.selection import FrameTime, RecentFrames, Selection, SimilaritySampling, build_selector
from i2vpp.memory.similarity import SimilarityTable
from parity.det_weights import normal

PARITY = json.loads((Path(__file__).parent / "parity" / "selection.json").read_text())


def even(frames: Sequence[int]) -> np.ndarray:
    return np.ones(len(frames))


def slots(selection: Selection) -> list[list[int]]:
    return [[pick.frame_idx, pick.slot] for pick in selection.spatial]


@pytest.mark.parametrize("case", PARITY, ids=lambda case: f"t={case['t']}")
def test_most_similar_frames_are_those_of_the_published_network(case: dict) -> None:
    t, conditioning = case["t"], case["conditioning"]
    first, last = case["tracked"]
    tracked = {f for f in range(first, last + 1) if last > 0 and f not in conditioning}
    selector = SimilaritySampling(SelectionConfig(mode="top"))
    table = SimilarityTable(selector.window)
    for f in range(max(0, t - selector.window), t + 1):
        table.add(f, normal(1000 + f, 16, 8)[None, :, :, None])
    selection = selector.select(FrameTime(frame_idx=t), conditioning, tracked, lambda frames: table.get(t, frames))
    assert slots(selection) == case["slots"]
    assert selection.spatial[0].weight - 1 == case["copies_of_first_conditioning"]
    assert sum(p.weight for p in selection.pointers) == sum(p.weight for p in selection.spatial)


@pytest.mark.parametrize("mode", ["sample", "top", "recent"])
@pytest.mark.parametrize(("t", "conditioning", "tracked"), [
    (30, [0, 20], set(range(1, 30)) - {20}), (3, [0], {1, 2}), (1, [0], set()), (0, [5], set()), (4, [9], {1, 2}),
])  # fmt: skip
def test_reverse_is_forward_in_mirrored_time(mode: str, t: int, conditioning: list[int], tracked: set[int]) -> None:
    last = 40
    selector = build_selector(SelectionConfig(mode=mode))
    alike = np.random.default_rng(0).random(last + 1)
    forward = selector.select(FrameTime(frame_idx=t), conditioning, tracked, lambda fs: alike[list(fs)])
    backward = selector.select(
        FrameTime(frame_idx=last - t, last_frame=last, reverse=True),
        [last - f for f in conditioning],
        {last - f for f in tracked},
        lambda fs: alike[[last - f for f in fs]],
    )
    assert [(last - p.frame_idx, p.slot, p.weight) for p in backward.spatial] == [
        (p.frame_idx, p.slot, p.weight) for p in forward.spatial
    ]
    assert [(last - p.frame_idx, p.offset, p.weight) for p in backward.pointers] == [
        (p.frame_idx, p.offset, p.weight) for p in forward.pointers
    ]
    assert all(np.isfinite(p.offset) for p in backward.pointers)


def test_reverse_needs_the_last_frame() -> None:
    with pytest.raises(ValueError, match="last_frame"):
        FrameTime(frame_idx=3, reverse=True)


def test_draws_depend_on_seed_and_frame_only() -> None:
    def draw(seed: int, t: int) -> Selection:
        selector = SimilaritySampling(SelectionConfig(seed=seed))
        return selector.select(FrameTime(frame_idx=t), [0], set(range(1, t)), even)

    assert draw(0, 100) == draw(0, 100)
    assert draw(0, 100) != draw(1, 100)
    assert [p.frame_idx - 100 for p in draw(0, 100).spatial[1:]] != [
        p.frame_idx - 101 for p in draw(0, 101).spatial[1:]
    ]


def test_sampling_follows_the_softmax_of_the_similarities() -> None:
    similarity = np.log(np.array([1.0, 2, 3, 4]))
    counts = np.zeros(4)
    selector_config = {"num_global": 0, "num_local": 1, "local_window": 4, "global_window": 0}
    for seed in range(2000):
        selector = SimilaritySampling(SelectionConfig(seed=seed, **selector_config))
        picked = selector.select(FrameTime(frame_idx=10), [0], {6, 7, 8, 9}, lambda _: similarity).spatial[1]
        counts[picked.frame_idx - 6] += 1
    np.testing.assert_allclose(counts / counts.sum(), [0.1, 0.2, 0.3, 0.4], atol=0.04)


def test_similarity_is_not_asked_when_there_is_nothing_to_choose() -> None:
    def refuse(frames: Sequence[int]) -> np.ndarray:
        raise AssertionError("not needed")

    SimilaritySampling(SelectionConfig()).select(FrameTime(frame_idx=3), [0], {1, 2}, refuse)
    RecentFrames().select(FrameTime(frame_idx=300), [0], set(range(1, 300)), refuse)


def test_future_prompts_give_features_but_no_pointers() -> None:
    selection = SimilaritySampling(SelectionConfig()).select(FrameTime(frame_idx=3), [0, 9], {1, 2}, even)
    assert slots(selection) == [[0, 0], [9, 0], [1, 5], [2, 6]]
    assert [(p.frame_idx, p.weight) for p in selection.pointers] == [(0, 2), (1, 1), (2, 1)]


def test_windows_may_be_empty() -> None:
    only_global = SimilaritySampling(SelectionConfig(mode="top", local_window=0, num_local=0, global_window=3))
    assert slots(only_global.select(FrameTime(frame_idx=9), [0], set(range(1, 9)), even)) == [
        [0, 0],
        [6, 1],
        [7, 2],
        [8, 3],
    ]
    only_local = SimilaritySampling(SelectionConfig(mode="top", local_window=3, num_global=0, global_window=0))
    assert slots(only_local.select(FrameTime(frame_idx=9), [0], set(range(1, 9)), even)) == [[0, 0], [6, 1], [7, 2]]


def test_recent_frames_are_sam2s() -> None:
    selection = RecentFrames().select(FrameTime(frame_idx=20), [0, 30], set(range(1, 20)), even)
    assert slots(selection) == [[0, 0], [30, 0], [14, 1], [15, 2], [16, 3], [17, 4], [18, 5], [19, 6]]
    assert [(p.frame_idx, p.offset) for p in selection.pointers] == [
        (0, 20 / 7), *((20 - age, age / 7) for age in range(1, 8))
    ]  # fmt: skip


class TestSimilarityTable:
    def test_is_the_cosine(self) -> None:
        a, b = torch.randn(2, 1, 8, 4, 4, generator=torch.Generator().manual_seed(0))
        table = SimilarityTable(10)
        table.add(3, a)
        table.add(4, 5 * b)
        want = float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))
        assert table.get(4, [3])[0] == pytest.approx(want, abs=1e-6)
        assert table.get(3, [4])[0] == table.get(4, [3])[0]

    @pytest.mark.parametrize("side", [16, 20])
    def test_is_exact_enough_for_the_published_choice(self, side: int, device: torch.device) -> None:
        """Frames like those of a video: mostly the same. One side fits the blocks of a key, the other does not."""
        generator = torch.Generator().manual_seed(0)
        still = torch.randn(256, side, side, generator=generator)
        frames = still + 0.3 * torch.randn(40, 256, side, side, generator=generator)
        frames[:, 7] *= 50  # one channel has most of the energy
        table = SimilarityTable(210)
        for f, embedding in enumerate(frames):
            table.add(f, embedding[None].to(device))
        exact = torch.nn.functional.cosine_similarity(frames[39:].flatten(1).double(), frames[:39].flatten(1).double())
        np.testing.assert_allclose(
            table.get(39, range(39)), exact.numpy(), rtol=0, atol=1e-5 if device.type == "cpu" else 3e-4
        )

    def test_of_embeddings_that_are_no_numbers(self) -> None:
        """A network that has gone wrong shows in the masks; the selection goes on."""
        table = SimilarityTable(4)
        for f in range(3):
            table.add(f, torch.full((1, 2, 1, 1), torch.nan if f == 1 else 1.0))
        assert table.missing(2, [0, 1]) == []
        assert table.get(2, [0, 1]).tolist() == pytest.approx([1, np.nan], nan_ok=True)

    def test_adding_waits_for_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not even if the next frame is compared before the present one's similarities are asked for."""
        waited: list[CpuCopy] = []
        wait = CpuCopy.wait
        monkeypatch.setattr(CpuCopy, "arrived", lambda _: None)
        monkeypatch.setattr(CpuCopy, "wait", lambda copy: waited.append(copy) or wait(copy))
        table = SimilarityTable(4)
        for f in range(4):
            table.add(f, torch.ones(1, 2, 1, 1))
        assert not waited
        assert table.get(2, [0, 1]) == pytest.approx(np.ones(2))
        assert len(waited) == 1
        assert table.missing(2, [0, 1]) == []
        assert len(waited) == 1
        assert table.get(1, [3]) == pytest.approx(np.ones(1))  # in reverse
        assert len(waited) == 3
        table.add(4, torch.ones(1, 2, 1, 1))
        assert len(waited) == 3

    def test_holds_the_nearest_keys_and_remembers_what_it_compared(self) -> None:
        table = SimilarityTable(4)
        for f in range(20):
            table.add(f, torch.full((1, 2, 1, 1), 1.0))
        assert [f for f in range(20) if f in table] == [15, 16, 17, 18, 19]
        assert table.get(8, [4, 5, 6, 7]) == pytest.approx(np.ones(4))
        assert table.missing(8, [3, 4]) == [3]

    def test_forgets_in_live_streams(self) -> None:
        table = SimilarityTable(4, forget=True)
        for f in range(200):
            table.add(f, torch.ones(1, 2, 1, 1))
        assert len(table._known) <= 5
        assert not table._pending
