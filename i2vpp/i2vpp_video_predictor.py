"""The public API: SAM 2's video predictor methods over the SAM-I2V++ network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import Any, TypeAlias

import numpy as np
import torch
from tqdm import tqdm

from i2vpp.errors import PromptError
from i2vpp.execution.runner import Runner
from i2vpp.memory.bank import MemoryBank
from i2vpp.memory.selection import MemorySelector, build_selector
from i2vpp.modeling.i2vpp import I2VPP
from i2vpp.prompts.tensors import merge_clicks, parse_clicks, parse_mask
from i2vpp.sam2_module import Sam2Module
from i2vpp.session.bad_frames import OnBadFrame, tolerate
from i2vpp.session.frames import FrameStore
from i2vpp.session.passes import Pass, follow
from i2vpp.session.state import InferenceState, ObjectTrack
from i2vpp.session.video import FrameSource, LiveSource, open_source
from i2vpp.stream import StreamSession
from i2vpp.structures import FrameResult
from i2vpp.tracking import Tracker
from i2vpp.utils.values import whole_number

Progress: TypeAlias = bool | Callable[..., Iterable[int]]
ObjIds: TypeAlias = Iterable[int] | None


class I2VPPVideoPredictor(Sam2Module):
    """Segments prompted objects in videos; made by `build_i2vpp_video_predictor`.

    The predictor holds only the network, and every video has its own `InferenceState`: sessions can be used alternately
    and from several threads. Masks are float32 logits [objects, 1, H, W] at the video's size; positive means object.

    Args:
        model: the network, in eval mode on its device.
        dtype: data type of encoder, memory attention and memory encoder (float32, bfloat16, float16). The predictor
        sets
            autocast itself.
        selector: selector of the memories that are read; default: as the model's config says.
        runner: makes what runs the network: `Runner` (operation by operation) or `CompiledRunner`.
    """

    def __init__(
        self,
        model: I2VPP,
        *,
        dtype: torch.dtype = torch.float32,
        selector: MemorySelector | None = None,
        runner: Callable[[I2VPP], Runner] = Runner,
    ) -> None:
        self.model = model
        self.selector = selector or build_selector(model.config.selection)
        self._tracker = Tracker(runner(model), dtype=dtype)

    @classmethod
    def from_pretrained(
        cls, path_or_hub_id: str | PathLike[str], *, revision: str | None = None, **options: Any
    ) -> I2VPPVideoPredictor:
        """Build a predictor with weights from a file, a folder or the Hugging Face Hub.

        Args:
            path_or_hub_id: path or name of a checkpoint, folder with `model.safetensors`, or `owner/name` of a
            repository
                of the Hub with such a file, which huggingface_hub fetches once. Local files take precedence.
            revision: branch, tag or commit of the repository.
            options: arguments of `build_i2vpp_video_predictor`, such as `device`.

        Returns:
            The predictor.

        Raises:
            I2VPPError: see `build_i2vpp_video_predictor`; CheckpointError also if nothing can be fetched.
        """
        from i2vpp.build_i2vpp import build_i2vpp_video_predictor  # noqa: PLC0415 - which imports this module
        from i2vpp.weights.hub import find_pretrained  # noqa: PLC0415 - needed here only

        return build_i2vpp_video_predictor(ckpt_path=find_pretrained(path_or_hub_id, revision), **options)

    @property
    def device(self) -> torch.device:
        """Device on which the network runs."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Data type of encoder, memory attention and memory encoder."""
        return self._tracker.dtype

    @property
    def image_size(self) -> int:
        """Side of the network's square input in pixels."""
        return self.model.image_size

    def warm_up(self, objects: int = 1) -> None:
        """Run the work that is done only once, at the first tracked frame: a compiled predictor compiles.

        Args:
            objects: number of objects that will be tracked; 2 prepares for any larger number, except for about a second
                on a GPU.
        """
        frame = np.zeros((self.image_size, self.image_size, 3), np.uint8)
        with self.init_state([frame, frame]) as state:
            for obj_id in range(whole_number("objects", objects, least=1)):
                self.add_new_mask(state, 0, obj_id, frame[..., 0])
            for _ in self.propagate_in_video(state, progress=False):
                pass

    # Sessions

    def init_state(
        self,
        video_path: Any,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        async_loading_frames: bool = False,
        *,
        on_bad_frame: OnBadFrame = "raise",
    ) -> InferenceState:
        """Open a video. Nothing is decoded before it is needed.

        Args:
            video_path: video file, folder of images, URL, bytes, or images in a list or iterator; see `open_source`.
            offload_video_to_cpu: accepted for SAM 2's users; frames always wait on the CPU.
            offload_state_to_cpu: keep memories on the CPU: less GPU memory, slower.
            async_loading_frames: accepted for SAM 2's users; the next frames are always decoded in the background.
            on_bad_frame: what happens at a frame that cannot be decoded, is damaged or missing: "raise" raises
                FrameDecodeError; "repeat" tracks the frame before once more, and its result has `bad_frame` set; "skip"
                goes on without a result for it. Indices are the same in any case; `state.bad_frames` lists those met.

        Returns:
            The session, a context manager.

        Raises:
            I2VPPError: `on_bad_frame` is none of these.
            VideoError: the video cannot be opened.
        """
        source = tolerate(open_source(video_path), on_bad_frame)
        return self._open(source, offload_state_to_cpu=offload_state_to_cpu)

    def init_stream(self, *, keep: int = 3, offload_state_to_cpu: bool = False) -> StreamSession:
        """Open a live session: frames are pushed by `step(frame)`, memory stays constant.

        Args:
            keep: number of the latest frames that are held and can still be prompted, at least 3.
            offload_state_to_cpu: see `init_state`.

        Returns:
            The live session, a context manager.
        """
        source = LiveSource(keep=keep)
        return StreamSession(self, self._open(source, offload_state_to_cpu=offload_state_to_cpu), source)

    def _open(self, source: FrameSource, *, offload_state_to_cpu: bool) -> InferenceState:
        frames = FrameStore(source, self.image_size, device=self.device)
        device = torch.device("cpu") if offload_state_to_cpu else None
        return InferenceState(source, frames, self.selector, device=device)

    def reset_state(self, inference_state: InferenceState) -> None:
        """Remove all objects and prompts; the video stays open."""
        with inference_state.lock:
            inference_state.reset()

    # Prompts

    def add_new_points_or_box(
        self,
        inference_state: InferenceState,
        frame_idx: int,
        obj_id: int,
        points: Any = None,
        labels: Any = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: Any = None,
        *,
        obj_ids: ObjIds = None,
    ) -> FrameResult:
        """Prompt an object with clicks and/or a box on a frame; a new id adds an object, at any time.

        The frame's mask changes at once, other frames at the next propagation. A mask prompted earlier on the frame is
        replaced, and its mask (like that of earlier clicks) is where the decoder starts from.

        Args:
            inference_state: the session.
            frame_idx: the frame.
            obj_id: any integer.
            points: [P, 2] x, y in pixels of the video. Points and box may leave the frame by up to 2 pixels.
            labels: [P] 1 for positive, 0 for negative clicks; as in SAM 2, 2 and 3 make a box's corners of two points,
                and -1 is padding.
            clear_old_points: replace the frame's earlier clicks; False adds to them.
            normalize_coords: False if points and box are already divided by the video's width and height.
            box: x0, y0, x1, y1 in pixels of the video.
            obj_ids: the objects of the result; default: all.

        Returns:
            Masks of these objects on this frame.

        Raises:
            PromptError: the prompt makes no sense, or `obj_ids` names an unknown object; nothing was changed.
        """
        state = inference_state
        with state.lock:
            frame_idx, obj_id = state.check_frame(frame_idx), whole_number("obj_id", obj_id)
            shown = state.check_obj_ids(obj_ids, adding=obj_id)
            clicks = parse_clicks(
                points,
                labels,
                box,
                height=state.video_height,
                width=state.video_width,
                image_size=self.image_size,
                normalize_coords=normalize_coords,
            )
            track = self._existing_or_new(state, obj_id)
            earlier = track.clicks.get(frame_idx)
            if not clear_old_points and earlier is not None:
                if clicks.has_box:
                    raise PromptError("A box comes before clicks: pass it with clear_old_points=True, clicks included.")
                clicks = merge_clicks(earlier, clicks)
            self._tracker.prompt_clicks(state, track, frame_idx, clicks)
            track.clicks[frame_idx] = clicks
            state.tracks[obj_id] = track
            return self._tracker.result(state, frame_idx, shown)

    def add_new_points(self, *args: Any, **kwargs: Any) -> FrameResult:
        """Old name of `add_new_points_or_box`."""
        return self.add_new_points_or_box(*args, **kwargs)

    def add_new_mask(
        self, inference_state: InferenceState, frame_idx: int, obj_id: int, mask: Any, *, obj_ids: ObjIds = None
    ) -> FrameResult:
        """Prompt an object with its mask on a frame; it is taken as it is and replaces earlier prompts on the frame.

        Args:
            inference_state: the session.
            frame_idx: the frame.
            obj_id: any integer.
            mask: [H, W] of the video's size: bool, integers (the object is not 0), floats in [0, 1] (above 0.5),
                logits, some of which are negative (above 0), or a PIL image; an empty mask declares the object absent.
            obj_ids: the objects of the result; default: all.

        Returns:
            Masks of these objects on this frame.

        Raises:
            PromptError: the mask does not fit, or `obj_ids` names an unknown object; nothing was changed.
        """
        state = inference_state
        with state.lock:
            frame_idx, obj_id = state.check_frame(frame_idx), whole_number("obj_id", obj_id)
            shown = state.check_obj_ids(obj_ids, adding=obj_id)
            parsed = parse_mask(mask, height=state.video_height, width=state.video_width)
            track = self._existing_or_new(state, obj_id)
            self._tracker.use_mask(state, track, frame_idx, parsed)
            track.clicks[frame_idx] = None
            state.tracks[obj_id] = track
            return self._tracker.result(state, frame_idx, shown)

    def add_tracked_mask(
        self, inference_state: InferenceState, frame_idx: int, obj_id: int, mask: Any, *, reverse: bool = False
    ) -> None:
        """Set an object's mask on a frame as if tracking had found it: it is no prompt, and tracking may replace it.

        Clicks on the frame start from this mask. Its memory is that of a non-conditioning frame. An object without any
        prompt is not tracked, whatever masks it has.

        Args:
            inference_state: the session.
            frame_idx: the frame.
            obj_id: any integer; a new id adds an object.
            mask: see `add_new_mask`.
            reverse: the mask was tracked towards frame 0.

        Raises:
            PromptError: the mask does not fit, or the object has prompts on this frame; nothing was changed.
        """
        state = inference_state
        with state.lock:
            frame_idx, obj_id = state.check_frame(frame_idx), whole_number("obj_id", obj_id)
            track = self._existing_or_new(state, obj_id)
            if frame_idx in track.clicks:
                raise PromptError(f"Object {obj_id} has prompts on frame {frame_idx}: clear them first.")
            parsed = parse_mask(mask, height=state.video_height, width=state.video_width)
            self._tracker.use_mask(state, track, frame_idx, parsed, conditioning=False, reverse=reverse)
            track.mark_visited([frame_idx])
            state.tracks[obj_id] = track

    def clear_all_prompts_in_frame(
        self,
        inference_state: InferenceState,
        frame_idx: int,
        obj_id: int,
        need_output: bool = True,
        *,
        obj_ids: ObjIds = None,
    ) -> FrameResult | None:
        """Take back an object's prompts on a frame, and with them its mask there, until the next propagation.

        A frame on which it has no prompt is left as it is.

        Args:
            inference_state: the session.
            frame_idx: the frame.
            obj_id: the object.
            need_output: return the masks on this frame.
            obj_ids: the objects of the result; default: all.

        Returns:
            Masks of these objects on this frame, or None without `need_output`.

        Raises:
            PromptError: there is no such frame or object.
        """
        with inference_state.lock:
            frame_idx = inference_state.check_frame(frame_idx)
            track = inference_state.track(obj_id)
            shown = inference_state.check_obj_ids(obj_ids)
            if frame_idx in track.clicks:
                track.forget(frame_idx)
            return self._tracker.result(inference_state, frame_idx, shown) if need_output else None

    def remove_object(
        self, inference_state: InferenceState, obj_id: int, strict: bool = False, need_output: bool = True
    ) -> tuple[list[int], list[tuple[int, torch.Tensor]]]:
        """Remove an object; the others stay as they are.

        Args:
            inference_state: the session.
            obj_id: the object.
            strict: raise PromptError if there is no such object.
            need_output: return the masks of the remaining objects on the frames where this one was prompted.

        Returns:
            The remaining ids, and pairs of frame index and masks.
        """
        with inference_state.lock:
            inference_state.check_open()
            obj_id = whole_number("obj_id", obj_id)
            if strict:
                inference_state.track(obj_id)
            track = inference_state.tracks.pop(obj_id, None)
            frames = sorted(track.clicks) if track is not None and need_output and inference_state.tracks else []
            updated = [(f, self._tracker.result(inference_state, f).masks) for f in frames]
            return inference_state.obj_ids, updated

    @staticmethod
    def _existing_or_new(state: InferenceState, obj_id: int) -> ObjectTrack:
        return state.tracks.get(obj_id) or ObjectTrack(bank=MemoryBank(state.device))

    # Tracking

    def propagate_in_video(
        self,
        inference_state: InferenceState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
        *,
        both: bool = False,
        progress: Progress = True,
        obj_ids: ObjIds = None,
    ) -> Iterator[FrameResult]:
        """Track objects through the video, frame by frame, as the caller asks for them.

        Args:
            inference_state: the session.
            start_frame_idx: first frame; default: the earliest prompted one.
            max_frame_num_to_track: how many frames to go on after the first, in each direction; default: to the end.
            reverse: go towards frame 0.
            both: go to the end, then from the frame before the first one towards frame 0.
            progress: show a bar; or a function such as tqdm, called with the frame indices and `total`, `desc`.
            obj_ids: the objects that are tracked and in the results; default: all. The others stay as they are.

        Yields:
            Masks of these objects on each frame, with object scores and predicted IoUs.

        Raises:
            PromptError: nothing is prompted yet, the first frame does not exist, a number is not right, or `obj_ids`
                names an unknown object.
            FrameDecodeError: a frame cannot be decoded; the results before it stay valid. See `on_bad_frame` of
                `init_state`.
        """
        state, limit = inference_state, max_frame_num_to_track
        tracked = state.check_obj_ids(obj_ids)
        start = self._first_frame(state, start_frame_idx, tracked)
        if limit is not None:
            limit = whole_number("max_frame_num_to_track", limit, least=0, instead="None, for all frames")
        if both:
            passes = [
                Pass.forward(state.source, start, limit),
                Pass.backward(start - 1, None if limit is None else limit - 1),
            ]
        elif reverse:
            passes = [Pass.backward(start, limit)]
        else:
            passes = [Pass.forward(state.source, start, limit)]
        return self._propagate(state, passes, progress, tracked)

    def _propagate(
        self, state: InferenceState, passes: list[Pass], progress: Progress, tracked: frozenset[int] | None
    ) -> Iterator[FrameResult]:
        bar = None if not progress else progress if callable(progress) else tqdm
        for step in follow(passes, bar):
            state.frames.hint(step.ahead)
            if not (state.source.skips and state.source.is_bad(step.frame_idx)):
                with state.lock:  # an object may be removed between two frames
                    present = None if tracked is None else tracked & state.tracks.keys()
                    result = self.track_frame(state, step.frame_idx, reverse=step.reverse, obj_ids=present)
                yield result

    def track_frame(
        self, inference_state: InferenceState, frame_idx: int, *, reverse: bool = False, obj_ids: ObjIds = None
    ) -> FrameResult:
        """Track objects on one frame: a single step of `propagate_in_video`.

        Args:
            inference_state: the session.
            frame_idx: the frame.
            reverse: tracking runs towards frame 0.
            obj_ids: the objects that are tracked and in the result; default: all.

        Returns:
            Masks of these objects on this frame.

        Raises:
            PromptError: there is no such frame, or `obj_ids` names an unknown object.
            FrameDecodeError: the frame cannot be decoded.
        """
        state = inference_state
        with state.lock:
            frame_idx, chosen = state.check_frame(frame_idx), state.check_obj_ids(obj_ids)
            self._tracker.track(state, frame_idx, reverse=reverse, obj_ids=chosen)
            return self._tracker.result(state, frame_idx, chosen)

    @staticmethod
    def _first_frame(state: InferenceState, start_frame_idx: int | None, obj_ids: frozenset[int] | None) -> int:
        state.check_open()
        prompted = [f for track in state.chosen(obj_ids).values() for f in track.bank.conditioning]
        if not prompted:
            raise PromptError("Nothing to track: add points, a box or a mask for at least one object first.")
        if start_frame_idx is None:
            return min(prompted)
        return state.check_frame(start_frame_idx, name="start_frame_idx")
