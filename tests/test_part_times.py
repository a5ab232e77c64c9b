"""The parts of a tracked frame's work share out all that a meter counts, and nothing stays behind."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest

from i2vpp.execution.compilation import CompiledRunner
from i2vpp.execution.part_times import COMPILED_PARTS, PARTS, measure_parts
from i2vpp.i2vpp_video_predictor import I2VPPVideoPredictor
from media import moving_disc
from models import make_predictor, make_shallow

FRAMES, MASKS = moving_disc(4, seed=3)


def test_the_parts_add_up_and_are_measured_no_longer_after_the_block() -> None:
    predictor = make_predictor(dtype="float32")
    with predictor.init_state(FRAMES) as state:
        predictor.add_new_mask(state, 0, 1, MASKS[0])

        def replaced() -> list[Any]:
            owners = (predictor._tracker, predictor._tracker.runner, predictor.model, state.frames, state.similarity)
            return [sorted(vars(owner)) for owner in (*owners, predictor.model.memory_attention)]

        before, ticks = replaced(), count()
        with measure_parts(predictor, state, lambda: float(next(ticks))) as shares:
            predictor.track_frame(state, 1)
        assert tuple(shares) == PARTS
        assert min(shares.values()) > 0
        assert sum(shares.values()) == next(ticks) - 1
        assert before == replaced()
        with pytest.raises(KeyError, match="mine"), measure_parts(predictor, state):
            raise KeyError("mine")
        assert before == replaced()
        with measure_parts(predictor, state) as seconds:
            predictor.track_frame(state, 2)
        assert 0 < sum(seconds.values()) < 60


def test_a_compiled_step_is_one_part() -> None:
    eager = make_shallow(make_predictor(dtype="float32"))
    runner = lambda model: CompiledRunner(model, backend="eager")  # noqa: E731
    predictor = I2VPPVideoPredictor(eager.model, runner=runner)
    with predictor.init_state(FRAMES) as state:
        predictor.add_new_mask(state, 0, 1, MASKS[0])
        with measure_parts(predictor, state) as seconds:
            predictor.track_frame(state, 1)
    assert tuple(seconds) == COMPILED_PARTS
    assert min(seconds.values()) > 0
