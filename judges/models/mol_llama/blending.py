"""Blending module: self- and cross-attention over the features of the 2D and the 3D encoder."""

from __future__ import annotations

import torch
from torch import nn

from flex_judge.judges.models.mol_llama.configuration import BlendingConfig


class BlendingUnit(nn.Module):
    """Pre-norm attention from one feature sequence to another (or to itself), followed by a feed-forward block."""

    def __init__(self, config: BlendingConfig) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.layer_norm_eps
        self.query_norm = nn.LayerNorm(width, eps=eps)
        self.key_norm = nn.LayerNorm(width, eps=eps)
        self.value_norm = nn.LayerNorm(width, eps=eps)
        self.attention = nn.MultiheadAttention(width, config.num_attention_heads, batch_first=True)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, queries: torch.Tensor, context: torch.Tensor, context_mask: torch.Tensor) -> torch.Tensor:
        """Let `queries` attend to `context`.

        Args:
            queries: (molecules, positions, width).
            context: (molecules, context positions, width).
            context_mask: bool (molecules, context positions), False for padding.
        """
        query, key, value = self.query_norm(queries), self.key_norm(context), self.value_norm(context)
        attended, _ = self.attention(query, key, value, key_padding_mask=~context_mask, need_weights=False)
        hidden = queries + attended
        return hidden + self.fc2(nn.functional.gelu(self.fc1(self.mlp_norm(hidden))))  # type: ignore[no-any-return]


class BlendingBlock(nn.Module):
    """Self-attention within each encoder's features, then cross-attention between them."""

    def __init__(self, config: BlendingConfig) -> None:
        super().__init__()
        self.self_2d = BlendingUnit(config)
        self.self_3d = BlendingUnit(config)
        self.cross_2d = BlendingUnit(config)
        """2D features attend to 3D features."""
        self.cross_3d = BlendingUnit(config)
        """3D features attend to 2D features."""

    def forward(
        self, features_2d: torch.Tensor, features_3d: torch.Tensor, mask_2d: torch.Tensor, mask_3d: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the four units in sequence; `cross_3d` attends to the output of `cross_2d`, as in the original."""
        keep_2d, keep_3d = mask_2d.unsqueeze(-1), mask_3d.unsqueeze(-1)
        features_2d = self.self_2d(features_2d, features_2d, mask_2d) * keep_2d
        features_3d = self.self_3d(features_3d, features_3d, mask_3d) * keep_3d
        features_2d = self.cross_2d(features_2d, features_3d, mask_3d) * keep_2d
        features_3d = self.cross_3d(features_3d, features_2d, mask_2d) * keep_3d
        return features_2d, features_3d


class Blending(nn.Module):
    """Projection of both encoders' features to one width, followed by blending blocks."""

    def __init__(self, config: BlendingConfig, width_2d: int, width_3d: int) -> None:
        super().__init__()
        self.norm_2d = nn.LayerNorm(width_2d, eps=config.layer_norm_eps)
        self.norm_3d = nn.LayerNorm(width_3d, eps=config.layer_norm_eps)
        self.proj_2d = nn.Linear(width_2d, config.hidden_size)
        self.proj_3d = nn.Linear(width_3d, config.hidden_size)
        self.blocks = nn.ModuleList(BlendingBlock(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, features_2d: torch.Tensor, features_3d: torch.Tensor, mask_2d: torch.Tensor, mask_3d: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Blend the features of both encoders.

        Args:
            features_2d: output of the 2D encoder, (molecules, positions, its width).
            features_3d: output of the 3D encoder, (molecules, positions, its width).
            mask_2d: bool (molecules, positions), False for padding.
            mask_3d: the same for `features_3d`.

        Returns:
            Features (molecules, 2D positions + 3D positions, width), 0 at padding, and their mask.
        """
        features_2d = self.proj_2d(self.norm_2d(features_2d)) * mask_2d.unsqueeze(-1)
        features_3d = self.proj_3d(self.norm_3d(features_3d)) * mask_3d.unsqueeze(-1)
        for block in self.blocks:
            features_2d, features_3d = block(features_2d, features_3d, mask_2d, mask_3d)
        return torch.cat([features_2d, features_3d], 1), torch.cat([mask_2d, mask_3d], 1)
