"""When frames are shown, of videos whose frames do not all last equally long."""

from __future__ import annotations

from itertools import pairwise

from i2vpp.session.video import FrameSource

TOLERANCE = 0.005
"""Seconds by which the times of frames may differ from those of a constant rate: pages show hundredths."""


def frame_durations(source: FrameSource) -> list[int] | None:
    """Return the milliseconds from each frame to the next; None where a constant rate says as much.

    They are differences of rounded times, so that their sums are off by no more than half a millisecond.

    Args:
        source: the video; no frames are decoded for their timestamps, unless the file has these only there.
    """
    times = [time for time in map(source.time, range(len(source))) if time is not None]
    if len(times) < len(source) or _is_constant(times, source.fps):
        return None
    rounded = [round(1000 * time) for time in times]
    return [after - before for before, after in pairwise(rounded)]


def _is_constant(times: list[float], fps: float | None) -> bool:
    if not fps:
        return False
    return all(abs(time - i / fps) <= TOLERANCE for i, time in enumerate(times))
