"""What scripts for SAM 2 read from a session by name: it is answered, or an error names what replaces it.

docs/sam2.md lists all of it for readers; a test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from i2vpp.errors import SessionError
from i2vpp.utils.suggest import did_you_mean

if TYPE_CHECKING:
    from i2vpp.session.state import InferenceState


class SessionKeyError(SessionError, KeyError):
    """A name that a session does not answer to; the message names the replacement."""

    __str__ = Exception.__str__  # KeyError would show the message in quotes


def _point_inputs(state: InferenceState) -> dict[int, dict[int, dict[str, torch.Tensor]]]:
    """Clicks by object index and frame, in pixels of the network's input; frames given by a mask are left out."""
    return {
        i: {
            frame: {"point_coords": clicks.coords[None], "point_labels": clicks.labels[None]}
            for frame, clicks in track.clicks.items()
            if clicks is not None
        }
        for i, track in enumerate(state.tracks.values())
    }


ANSWERED: dict[str, Callable[[Any], Any]] = {
    "obj_ids": lambda state: state.obj_ids,
    "num_frames": lambda state: state.num_frames,
    "video_height": lambda state: state.video_height,
    "video_width": lambda state: state.video_width,
    "obj_id_to_idx": lambda state: {obj_id: i for i, obj_id in enumerate(state.obj_ids)},
    "obj_idx_to_id": lambda state: dict(enumerate(state.obj_ids)),
    "device": lambda state: state.frames.device,
    "storage_device": lambda state: state.device or state.frames.device,
    "offload_video_to_cpu": lambda _: True,
    "offload_state_to_cpu": lambda state: state.device is not None,
    "point_inputs_per_obj": _point_inputs,
    "tracking_has_started": lambda state: any(track.visited for track in state.tracks.values()),
}
"""Names that a session answers to. Answers are made anew: changing one changes nothing in the session."""

REPLACED = {
    "images": "state.frame(frame_idx), a frame as uint8 RGB [H, W, 3], and state.num_frames",
    "mask_inputs_per_obj": "state.tracks[obj_id].clicks, which has None for a frame that was given by a mask",
    "cached_features": "nothing: encoder features are kept for a few frames only",
    "constants": "nothing: there are none",
    "output_dict": "the results of propagate_in_video",
    "output_dict_per_obj": "the results of propagate_in_video",
    "temp_output_dict_per_obj": "the results of add_new_points_or_box and add_new_mask",
    "consolidated_frame_inds": "state.tracks[obj_id].clicks, whose keys are the object's prompted frames",
    "frames_already_tracked": "state.tracks[obj_id].visited, the frames that a propagation has passed",
    "frames_tracked_per_obj": "state.tracks[obj_id].visited, the frames that a propagation has passed",
}
"""Names of SAM 2's that a session does not answer to, and what to use in their place."""


def answer(state: InferenceState, name: str) -> Any:
    """Return what SAM 2's users look up in a session by name.

    Args:
        state: the session.
        name: the name.

    Returns:
        The value.

    Raises:
        SessionKeyError: the session does not answer to the name; the message names the replacement.
    """
    if name in ANSWERED:
        return ANSWERED[name](state)
    if name in REPLACED:
        raise SessionKeyError(f"the session has no {name!r}: use {REPLACED[name]}")
    raise SessionKeyError(f"the session has no {name!r}; {did_you_mean(name, ANSWERED)}")
