"""Which masks a correction makes stale: those that the next propagation from there would compute anew."""

from __future__ import annotations

from collections.abc import Collection, Mapping


def dependent_frames(corrected: int, tracked: Mapping[int, bool | None], prompted: Collection[int]) -> dict[int, bool]:
    """Return the frames whose tracked masks became stale when an object's mask on one frame was corrected.

    These are the masks that were tracked away from the corrected frame: towards the end of the video on later frames,
    towards frame 0 on earlier ones, up to the next frame with prompts, that one included, whose tracked mask lies
    below its prompts. Masks beyond it follow that frame's prompts and stay as they are.

    Args:
        corrected: the frame whose prompts were set, changed or deleted.
        tracked: frames with a tracked mask of the object, and whether it was tracked towards frame 0. Where that is
            not known (None), a frame counts as tracked towards frame 0 if there are prompted frames other than the
            corrected one and all of them lie after it.
        prompted: frames with prompts of the object now.

    Returns:
        The frames, with whether they were tracked towards frame 0.
    """
    others = sorted(frame for frame in prompted if frame != corrected)
    low = max((frame for frame in others if frame < corrected), default=0)
    high = min((frame for frame in others if frame > corrected), default=max(tracked, default=0))
    found = {}
    for frame, known in tracked.items():
        reverse = bool(others) and others[0] > frame if known is None else bool(known)
        if (low <= frame < corrected and reverse) or (corrected < frame <= high and not reverse):
            found[frame] = reverse
    return found
