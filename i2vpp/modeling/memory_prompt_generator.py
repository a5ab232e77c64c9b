"""Memory prompts: a few learned queries gather an object's appearance from memory and prompt the mask decoder."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from i2vpp.modeling.attention import Attention
from i2vpp.modeling.position_encoding import rotary_table
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

    def without_memory(self, batch: int) -> Tensor:
        """Prompts [batch, Q, D] of objects of which nothing is remembered yet."""
        return self.no_memory_prompt_embeddings_fg.weight.expand(batch, self.query_embedding_fg.num_embeddings, -1)

    def forward(self, memory: MemoryTokens, grid: torch.Size) -> Tensor:
        """Gather prompts [B, Q, D] from memory whose spatial tokens lie on `grid` (h, w)."""
        x = self.query_embedding_fg.weight.expand(memory.values.shape[0], -1, -1)
        width, device = x.shape[-1], x.device
        row = rotary_table(width, 1, x.shape[1], device)
        gathered = self.cross_attn(
            self.norm_fg_ca(x),
            memory.values + memory.position,
            memory.values,
            bias=self._bias(memory),
            q_rotary=row,
            k_rotary=rotary_table(width, grid[0], grid[1], device),
            k_unturned=memory.num_pointer_tokens,
        )
        x = x + gathered
        y = self.norm_fg_sa(x)
        x = x + self.self_attn(y, y, y, q_rotary=row, k_rotary=row)
        return x + self.linear2(F.relu(self.linear1(self.norm1(x))))

    @staticmethod
    def _bias(memory: MemoryTokens) -> Tensor:
        """Attend to the object's tokens only, each as often as it counts: [B, 1, 1, N]."""
        if memory.log_copies is None:
            return memory.foreground[:, None, None, :]
        return memory.log_copies.masked_fill(~memory.foreground, float("-inf"))[:, None, None, :]
