"""SAM's two-way transformer: prompt tokens and image cells attend to each other."""

from __future__ import annotations

from torch import Tensor, nn

from i2vpp.modeling.attention import Attention
from i2vpp.modeling.layers import MLP, to_tokens

MLP_WIDTH = 2048


class TwoWayBlock(nn.Module):
    """Self-attention of the tokens, tokens to image, MLP, image to tokens; post-norm."""

    def __init__(self, width: int, *, heads: int, first: bool) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads=heads)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))
        self.cross_attn_token_to_image = Attention(width, heads=heads, inner_width=width // 2)
        self.mlp = MLP((width, MLP_WIDTH, width))
        self.cross_attn_image_to_token = Attention(width, heads=heads, inner_width=width // 2)
        self.first = first

    def forward(
        self, tokens: Tensor, placed: Tensor, image: Tensor, token_position: Tensor, image_position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Let tokens and image cells attend to each other.

        Args:
            tokens: [B, T, D].
            placed: the tokens with their positions added [B, T, D].
            image: image cells [B, h * w, D].
            token_position: the prompt tokens [B, T, D].
            image_position: positions of the grid [1, h * w, D].

        Returns:
            Tokens, the tokens with their positions added [B, T, D], and image cells [B, h * w, D].
        """
        attended = self.self_attn(placed, placed, tokens)
        tokens = self.norm1(attended if self.first else tokens + attended)
        k = image + image_position
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + token_position, k, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        placed = tokens + token_position
        image = self.norm4(image + self.cross_attn_image_to_token(k, placed, tokens))
        return tokens, placed, image


class TwoWayTransformer(nn.Module):
    """Two-way blocks and a last attention from tokens to image."""

    def __init__(self, width: int = 256, *, depth: int = 2, heads: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(width, heads=heads, first=i == 0) for i in range(depth))
        self.final_attn_token_to_image = Attention(width, heads=heads, inner_width=width // 2)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, image: Tensor, image_position: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Let prompts and an image attend to each other.

        Args:
            image: [B, D, h, w].
            image_position: [1, D, h, w].
            prompts: [B, T, D].

        Returns:
            Tokens [B, T, D] and image cells [B, h * w, D].
        """
        cells, position = to_tokens(image), to_tokens(image_position)
        tokens = placed = prompts  # the first block's tokens equal their positions, which are therefore not added
        for layer in self.layers:
            tokens, placed, cells = layer(tokens, placed, cells, prompts, position)
        attended = self.final_attn_token_to_image(placed, cells + position, cells)
        return self.norm_final_attn(tokens + attended), cells
