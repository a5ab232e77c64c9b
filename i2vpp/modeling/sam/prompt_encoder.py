"""SAM's prompt encoder: clicks and boxes become sparse tokens, a mask becomes a dense map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.inference import FromWeights
from i2vpp.modeling.layers import GELU2d, LayerNorm2d
from i2vpp.modeling.position_encoding import RandomPositionEncoding
from i2vpp.structures import Prompt

PADDING_LABEL = -1
NUM_LABELS = 4  # negative, positive, and the two corners of a box


class PromptEncoder(nn.Module):
    """Embed prompts.

    Args:
        width: of the tokens.
        mask_width: hidden channels of the mask embedding.
    """

    def __init__(self, width: int = 256, *, mask_width: int = 16) -> None:
        super().__init__()
        self.pe_layer = RandomPositionEncoding(width)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(NUM_LABELS))
        self.not_a_point_embed = nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_width // 4, 2, stride=2),
            LayerNorm2d(mask_width // 4),
            GELU2d(),
            nn.Conv2d(mask_width // 4, mask_width, 2, stride=2),
            LayerNorm2d(mask_width),
            GELU2d(),
            nn.Conv2d(mask_width, width, 1),
        )
        self.no_mask_embed = nn.Embedding(1, width)
        self._positions = FromWeights()

    def sparse(self, prompt: Prompt, *, batch: int, image_size: int) -> Tensor:
        """Embed clicks and box corners, plus one padding point.

        Args:
            prompt: the prompt.
            batch: number of objects (B).
            image_size: side of the network's input in pixels.

        Returns:
            [B, max(P, 1) + 1, D].
        """
        coords, labels = prompt.coords, prompt.labels
        if coords is None and not torch.is_grad_enabled():  # as below, without computing what is replaced
            return self.not_a_point_embed.weight.expand(batch, 2, -1)
        if coords is None or labels is None:  # no click counts as one padding point
            device = self.not_a_point_embed.weight.device
            coords = torch.zeros(batch, 1, 2, dtype=torch.float32, device=device)
            labels = torch.full((batch, 1), PADDING_LABEL, device=device)
        coords = F.pad(coords, (0, 0, 0, 1))
        labels = F.pad(labels, (0, 1), value=PADDING_LABEL)[..., None]  # [B, P + 1, 1]
        embedding = self.pe_layer((coords.float() + 0.5) / image_size)
        embedding = torch.where(labels == PADDING_LABEL, self.not_a_point_embed.weight, embedding)
        for label, point in enumerate(self.point_embeddings.parameters()):
            embedding = torch.where(labels == label, embedding + point, embedding)
        return embedding

    def grid_position(self, grid: torch.Size) -> Tensor:
        """Return the positions [1, D, h, w] of the cells of a grid (h, w)."""
        matrix = self.pe_layer.positional_encoding_gaussian_matrix
        (position,) = self._positions(lambda: (self.pe_layer.grid(*grid),), matrix, key=tuple(grid))
        return position

    def dense(self, prompt: Prompt, *, grid: torch.Size) -> Tensor:
        """Embed the mask prompt, or its absence.

        Args:
            prompt: the prompt.
            grid: (h, w).

        Returns:
            [B, D, h, w], or [1, D, h, w] without a mask.
        """
        if prompt.mask is None:
            return self.no_mask_embed.weight[..., None, None].expand(-1, -1, *grid)
        return self.mask_downscaling(prompt.mask)
