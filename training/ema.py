"""A moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class EMA:
    """Exponential moving average of a network's parameters; buffers such as running statistics are copied.

    The decay of update n (from 0) is at most (1 + n) / (10 + n), so that the start is soon forgotten.

    Args:
        model: network whose weights are averaged, in float32 and on its device.
        decay: weight of the average in each update, 0 to below 1.

    Raises:
        ValueError: parameters of another dtype: autocast keeps float32 ones, and an average in less would stand still.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        others = {str(parameter.dtype) for parameter in model.parameters() if parameter.dtype != torch.float32}
        if others:
            raise ValueError(f"EMA: parameters must be float32, got {', '.join(sorted(others))}")
        self.decay = decay
        self.updates = 0
        self.shadow: dict[str, Tensor] = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights after an optimiser step into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        parameters = dict(model.named_parameters())
        average = get_ema_multi_avg_fn(decay)
        average([self.shadow[name] for name in parameters], list(parameters.values()), self.updates)
        for name, buffer in model.named_buffers():
            if name in self.shadow:
                self.shadow[name].copy_(buffer)
        self.updates += 1

    @torch.no_grad()
    def load(self, shadow: Mapping[str, Tensor], updates: int) -> None:
        """Take over an average.

        Args:
            shadow: the average of each parameter, and the buffers.
            updates: number of updates that made it.

        Raises:
            ValueError: its entries are not those of this network.
        """
        if shadow.keys() != self.shadow.keys():
            different = sorted(shadow.keys() ^ self.shadow.keys())
            raise ValueError(f"EMA: the state is of another network; different are {', '.join(different[:5])}")
        for name, value in shadow.items():
            self.shadow[name].copy_(value)
        self.updates = updates

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Put the average into the model, and its own weights back on leaving."""
        own = {name: value.detach().clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self.shadow)
        try:
            yield
        finally:
            model.load_state_dict(own)
