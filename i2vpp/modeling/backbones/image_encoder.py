"""From a frame and its short clip to one feature map with its position map."""

from __future__ import annotations

from torch import Tensor, nn

from i2vpp.modeling.backbones.temporal_feature_integrator import TemporalFeatureIntegrator
from i2vpp.modeling.backbones.tiny_vit import TinyViT
from i2vpp.modeling.position_encoding import sine_map
from i2vpp.structures import FrameFeatures

STRIDE = 16
"""Image pixels per cell of the embedding."""


class ImageEncoder(nn.Module):
    """The image trunk, its last three maps merged with the clip by the video trunk."""

    def __init__(self, trunk_image: TinyViT, trunk_video: TemporalFeatureIntegrator) -> None:
        super().__init__()
        self.trunk_image = trunk_image
        self.trunk_video = trunk_video

    def forward(self, image: Tensor, clip: Tensor) -> FrameFeatures:
        """Encode frames; the position map stays float32 under autocast.

        Args:
            image: the current frames [B, 3, H, W], normalised.
            clip: frames in video order, the current one last [B, 3, T, H, W], normalised.

        Returns:
            Features on the grid of H / 16 x W / 16 cells.

        Raises:
            ValueError: a side is not a multiple of 16, or the clip's frames are not of the image's size.
        """
        height, width = image.shape[-2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"image: sides must be multiples of {STRIDE}, got {height}x{width}")
        if clip.shape[-2:] != image.shape[-2:]:
            raise ValueError(f"clip: frames must be {height}x{width} as the image, got {tuple(clip.shape)}")
        embedding = self.trunk_video(self.trunk_image(image)[2:], clip)
        channels, rows, columns = embedding.shape[1:]
        return FrameFeatures(embedding=embedding, position=sine_map(channels, rows, columns, embedding.device))
