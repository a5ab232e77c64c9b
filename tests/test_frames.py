from __future__ import annotations

import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from i2vpp.errors import FrameDecodeError, SessionError
from i2vpp.session.frames import FrameStore
from i2vpp.session.video import FrameSource, LiveSource, open_source
from media import moving_disc, numbered, write_video

SIZE = 16
CPU = torch.device("cpu")


class Recorder(FrameSource):
    """Frames 0, 1, 2, ... of random noise, which notes what is read; `broken` frames cannot be read."""

    def __init__(self, length: int = 100, *, broken: tuple[int, ...] = ()) -> None:
        super().__init__("the recorder")
        self.length, self.broken = length, broken
        self.read: list[int] = []
        self.threads: set[str] = set()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> np.ndarray:
        if i >= self.length:
            raise IndexError(i)
        self.read.append(i)
        self.threads.add(threading.current_thread().name)
        if i in self.broken:
            raise FrameDecodeError(f"frame {i} is broken")
        return np.random.default_rng(i).integers(0, 256, (12, 20, 3), np.uint8)

    def close(self) -> None:
        pass


def expected_clip(source: FrameSource, indices: list[int]) -> torch.Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    frames = []
    for i in indices:
        image = Image.fromarray(source[i]).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        frames.append(((torch.from_numpy(np.array(image)).float() / 255 - mean) / std).permute(2, 0, 1))
    return torch.stack(frames, dim=1)[None]


def wait_for_thread(store: FrameStore) -> None:
    deadline = time.monotonic() + 60
    while store._workers:
        assert time.monotonic() < deadline, "the prefetch thread does not end"
        time.sleep(0.001)


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize(("t", "indices"), [(0, [0, 0, 0]), (1, [0, 1, 1]), (2, [0, 1, 2]), (9, [7, 8, 9])])
def test_clip_is_three_frames_normalised(t, indices, prefetch):
    store = FrameStore(Recorder(), SIZE, device=CPU, prefetch=prefetch)
    store.hint(range(t, -1, -1))
    clip = store.clip(t)
    assert clip.shape == (1, 3, 3, SIZE, SIZE)
    assert clip.dtype == torch.float32
    torch.testing.assert_close(clip, expected_clip(Recorder(), indices), rtol=0, atol=0)


@pytest.mark.parametrize("prefetch", [0, 1, 2])
@pytest.mark.parametrize("clips", [range(30), range(29, -1, -1), range(10, 20)], ids=["forward", "backward", "middle"])
def test_each_frame_is_decoded_once(clips, prefetch):
    source = Recorder(30)
    store = FrameStore(source, SIZE, device=CPU, capacity=3 + prefetch, prefetch=prefetch)
    store.hint(clips)
    for t in clips:
        store.clip(t)
    wait_for_thread(store)
    first, last = min(clips), max(clips)
    assert sorted(source.read) == list(range(max(first - 2, 0), last + 1))
    assert len(store._frames) <= 3 + prefetch


@pytest.mark.parametrize("clips", [range(30), range(29, -1, -1)], ids=["forward", "backward"])
def test_each_frame_is_normalised_once(clips, monkeypatch):
    """Neighbouring clips share two frames, and the next one is made from those of the latest."""
    asked = []
    frame = FrameStore._frame
    monkeypatch.setattr(FrameStore, "_frame", lambda store, i: asked.append(i) or frame(store, i))
    store = FrameStore(Recorder(30), SIZE, device=CPU)
    made = [store.clip(t) for t in clips]
    assert sorted(asked) == list(range(30))
    for t, clip in zip(clips, made, strict=True):  # clips stay what they were
        indices = [t - 2, t - 1, t] if t >= 2 else [0, t, t]
        torch.testing.assert_close(clip, expected_clip(Recorder(), indices), rtol=0, atol=0)


def test_several_threads_resize_at_a_time():
    class Slow(Recorder):
        together = threading.Barrier(3)

        def __getitem__(self, i: int) -> np.ndarray:
            if i > 2:
                self.together.wait(timeout=60)
            return super().__getitem__(i)

    source = Slow(12)
    store = FrameStore(source, SIZE, device=CPU, prefetch=3, threads=3)
    store.clip(2)
    for t in (5, 8, 11):
        store.hint(range(t - 2, t + 1))
        wait_for_thread(store)
        store.hint(range(0))
        torch.testing.assert_close(store.clip(t), expected_clip(Recorder(), [t - 2, t - 1, t]), rtol=0, atol=0)
    assert sorted(source.read) == list(range(12))


@pytest.mark.parametrize("threads", [1, 4])
def test_threads_share_a_video_file(tmp_path, threads):
    path = write_video(tmp_path / "a.mp4", numbered(40), options={"g": "12", "bf": "2"})
    for clips in (range(40), range(39, -1, -1)):
        store = FrameStore(open_source(path), SIZE, device=CPU, prefetch=4, threads=threads)
        store.hint(clips)
        for t in clips:
            indices = [t - 2, t - 1, t] if t >= 2 else [0, t, t]
            torch.testing.assert_close(store.clip(t), expected_clip(open_source(path), indices), rtol=0, atol=0)


def test_frames_are_decoded_ahead_in_one_thread():
    source = Recorder()
    store = FrameStore(source, SIZE, device=CPU, prefetch=2)
    store.hint(range(5, 50))
    wait_for_thread(store)
    assert source.read == [3, 4]
    assert source.threads == {"i2vpp-prefetch"}
    store.clip(5)
    wait_for_thread(store)
    assert sorted(source.read) == [3, 4, 5, 6, 7]
    store.hint(range(30, 0, -1))
    store.clip(30)
    wait_for_thread(store)
    assert sorted(source.read[5:]) == [26, 27, 28, 29, 30]


def test_without_prefetch_there_is_no_thread():
    source = Recorder()
    store = FrameStore(source, SIZE, device=CPU, prefetch=0)
    store.hint(range(10))
    store.clip(0)
    assert source.read == [0]
    assert source.threads == {threading.current_thread().name}


def test_nothing_is_read_beyond_the_hint():
    made = []

    def frames():
        for i in range(100):
            made.append(i)
            yield moving_disc(1)[0][0]

    store = FrameStore(open_source(frames()), SIZE, device=CPU, prefetch=4)
    store.hint(range(6))
    for t in range(6):
        store.clip(t)
    wait_for_thread(store)
    assert made == list(range(6))


def test_cache_is_bounded_and_keeps_the_latest():
    source = Recorder()
    store = FrameStore(source, SIZE, device=CPU, capacity=4, prefetch=0)
    for t in (2, 3, 2, 8, 2):
        store.clip(t)
        assert len(store._frames) <= 4
    assert source.read == [0, 1, 2, 3, 6, 7, 8, 1, 2]  # of the latest clips, 0 was the last one that was looked up


@pytest.mark.parametrize("prefetch", [0, 2])
def test_errors_surface_when_their_frame_is_asked_for(prefetch):
    store = FrameStore(Recorder(20, broken=(4,)), SIZE, device=CPU, prefetch=prefetch)
    store.hint(range(20))
    for t in range(4):
        store.clip(t)
    wait_for_thread(store)
    for t in (4, 5, 6):
        with pytest.raises(FrameDecodeError, match="frame 4 is broken"):
            store.clip(t)
    store.clip(7)
    with pytest.raises(IndexError):
        store.clip(20)
    with pytest.raises(IndexError, match="frame -1: indices start at 0"):
        store.clip(-1)


def test_live_stream():
    source = LiveSource()
    store = FrameStore(source, SIZE, device=CPU)
    frames, _ = moving_disc(8)
    for t, frame in enumerate(frames):
        source.append(frame)
        store.hint(range(t, t + 1))
        indices = [t - 2, t - 1, t] if t >= 2 else [0, t, t]
        torch.testing.assert_close(store.clip(t), expected_clip(open_source(frames), indices), rtol=0, atol=0)


def test_clips_of_a_video_file(tmp_path):
    path = write_video(tmp_path / "a.mp4", numbered(30), options={"g": "12", "bf": "2"})
    store = FrameStore(open_source(path), SIZE, device=CPU)
    for clips in (range(30), range(29, -1, -1)):
        store.hint(clips)
        for t in clips[::7]:
            indices = [t - 2, t - 1, t] if t >= 2 else [0, t, t]
            torch.testing.assert_close(store.clip(t), expected_clip(open_source(path), indices), rtol=0, atol=0)


def test_closed_store():
    store = FrameStore(Recorder(), SIZE, device=CPU)
    store.hint(range(10))
    store.clip(3)
    store.close()
    store.close()
    wait_for_thread(store)
    assert not store._frames
    assert store.num_bytes == 0
    for use in (lambda: store.clip(3), lambda: store.hint(range(10))):
        with pytest.raises(SessionError, match="the frame store is closed"):
            use()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prefetch": -1}, "prefetch = -1"),
        ({"threads": 0}, "threads = 0; allowed: 1 or more"),
        ({"capacity": 4, "prefetch": 2}, r"capacity = 4; allowed: .* = 5"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FrameStore(Recorder(), SIZE, device=CPU, **arguments)


def test_a_waiting_stream_does_not_keep_the_interpreter_alive():
    script = """
import threading, numpy as np, torch
from i2vpp.session.frames import FrameStore
from i2vpp.session.video import open_source
def frames():
    yield np.zeros((8, 8, 3), np.uint8)
    threading.Event().wait()
store = FrameStore(open_source(frames()), 8, device=torch.device("cpu"))
store.clip(0)
store.hint(range(1, 9))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=300)
