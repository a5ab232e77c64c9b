"""Memory prompts: learned queries attend to the memory of an object; the results prompt the mask decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.attention import Attention
from i2vpp.modeling.inference import FromWeights, fewer_kernels
from i2vpp.modeling.position_encoding import rotary_table, rotate
from i2vpp.structures import MemoryTokens


class MemoryPromptGenerator(nn.Module):
    """Pre-norm masked cross-attention to the object's memory tokens, self-attention and MLP over Q queries.

    Args:
        width: of the prompts.
        memory_width: of the memory tokens.
        num_prompts: Q.
    """

    def __init__(self, width: int = 256, *, memory_width: int = 64, num_prompts: int = 3) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads=1)
        self.cross_attn = Attention(width, heads=1, kv_width=memory_width)
        self.no_memory_prompt_embeddings_fg = nn.Embedding(1, width)
        self.query_embedding_fg = nn.Embedding(num_prompts, width)
        self.norm_fg_sa, self.norm_fg_ca, self.norm1 = (nn.LayerNorm(width) for _ in range(3))
        self.linear1 = nn.Linear(width, width)
        self.linear2 = nn.Linear(width, width)
        self._kept = FromWeights(rounds=False)

    def without_memory(self, batch: int) -> Tensor:
        """Prompts [batch, Q, D] of objects without memory."""
        return self.no_memory_prompt_embeddings_fg.weight.expand(batch, self.query_embedding_fg.num_embeddings, -1)

    def forward(self, memory: MemoryTokens, grid: torch.Size) -> Tensor:
        """Make memory prompts.

        Args:
            memory: of B objects; its spatial tokens lie on `grid`.
            grid: (h, w).

        Returns:
            [B, Q, D].
        """
        x = self.query_embedding_fg.weight[None]
        x = x + self._gather(x, memory, grid)
        y = self.norm_fg_sa(x)
        row = rotary_table(x.shape[-1], 1, x.shape[1], x.device)
        x = x + self.self_attn(y, y, y, q_rotary=row, k_rotary=row)
        return x + self.linear2(F.relu(self.linear1(self.norm1(x))))

    def _queries(self, x: Tensor, grid: torch.Size) -> tuple[Tensor, ...]:
        """Turn the queries x [1, Q, D] back by the angle of every cell and project them to the memory's width M.

        Returns:
            By query and cell: factors of the keys [Q, h * w, M] and shift of the logits [Q, h * w]; then the same for
            the keys of pointers, which have no cell: [Q, M] and [Q].
        """
        attention, device = self.cross_attn, x.device
        q = rotate(attention.q_proj(self.norm_fg_ca(x)), rotary_table(x.shape[-1], 1, x.shape[1], device))[0]  # [Q, D]
        with torch.autocast(device.type, enabled=False):
            q = q.float() * q.shape[-1] ** -0.5
            cos, sin = rotary_table(x.shape[-1], grid[0], grid[1], device).unbind(-1)
            back = torch.stack([cos, -sin], dim=-1)
            by_cell = rotate(q[:, None].expand(-1, len(back), -1), back)  # [Q, h * w, D]
            weight, bias = attention.k_proj.weight.float(), attention.k_proj.bias.float()
            factors = torch.stack([one @ weight for one in by_cell])
            return factors, torch.stack([one @ bias for one in by_cell]), q @ weight, q @ bias

    def _gather(self, x: Tensor, memory: MemoryTokens, grid: torch.Size) -> Tensor:
        """Cross-attend from queries [1, Q, D] to memory, masked to the object: [B, Q, D].

        Q is small and all objects share the queries. So the queries are rotated back by the angle of every cell and
        projected to the memory's width M, instead of rotating and projecting every key, and the values are projected
        after averaging. No tensor of width D is computed per token.
        """
        attention = self.cross_attn
        layers = (self.norm_fg_ca, attention.q_proj, attention.k_proj)
        weights = (self.query_embedding_fg.weight, *(w for layer in layers for w in (layer.weight, layer.bias)))
        autocast = torch.is_autocast_enabled(x.device.type)  # under which the queries are rounded
        kept = self._kept(lambda: self._queries(x, grid), *weights, key=(tuple(grid), autocast))
        factors, shifts, pointer_factors, pointer_shifts = kept
        keys = memory.values + memory.position
        turned = keys.shape[1] - memory.num_pointer_tokens
        with torch.autocast(x.device.type, enabled=False):
            spatial = keys[:, :turned].float().unflatten(1, (-1, factors.shape[1]))  # [B, G, h * w, M]
            pointers = F.linear(keys[:, turned:].float(), pointer_factors, pointer_shifts)  # [B, P, Q]
            if fewer_kernels(x):
                by_cell = spatial.permute(2, 0, 1, 3).reshape(len(spatial[0, 0]), -1, spatial.shape[-1])
                dots = torch.baddbmm(shifts.T[:, None], by_cell, factors.permute(1, 2, 0))  # [h * w, B * G, Q]
                by_query = dots.unflatten(1, spatial.shape[:2]).permute(1, 3, 2, 0).flatten(2)
            else:
                pairs = zip(factors, shifts, strict=True)
                by_query = torch.stack([((spatial * f).sum(-1) + shift).flatten(1) for f, shift in pairs], dim=1)
            logits = torch.cat([by_query, pointers.transpose(1, 2)], dim=2)  # [B, Q, N]
            if memory.log_weights is not None:
                logits = logits + memory.log_weights[:, None]
            # An object without any foreground cell, and without pointers, attends to nothing: its mean is 0.
            seen = memory.foreground.any(dim=1, keepdim=True)  # [B, 1]
            hidden = seen != memory.foreground  # the background, but of no object that has no foreground
            logits = logits.masked_fill(hidden[:, None], float("-inf"))
            means = (logits.softmax(-1) @ memory.values.float()).masked_fill(~seen[:, None], 0.0)
        return attention.out_proj(attention.v_proj(means))
