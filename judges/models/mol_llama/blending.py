"""The blending module: what the two encoders see of a molecule, in one width, attends to itself and to each other."""

from __future__ import annotations

import torch
from torch import nn

from flex_judge.judges.models.mol_llama.configuration import BlendingConfig


class BlendingUnit(nn.Module):
    """One side attends to the other, or to itself; then a feed-forward part."""

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

    def forward(self, side: torch.Tensor, other: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        """Args:
        side: that attends, (molecules, positions, width).
        other: that is attended to, (molecules, others, width).
        real: which of `other` are, bool (molecules, others).
        """
        query, key, value = self.query_norm(side), self.key_norm(other), self.value_norm(other)
        attended, _ = self.attention(query, key, value, key_padding_mask=~real, need_weights=False)
        side = side + attended
        return side + self.fc2(nn.functional.gelu(self.fc1(self.mlp_norm(side))))  # type: ignore[no-any-return]


class BlendingBlock(nn.Module):
    def __init__(self, config: BlendingConfig) -> None:
        super().__init__()
        self.self_2d = BlendingUnit(config)
        self.self_3d = BlendingUnit(config)
        self.cross_2d = BlendingUnit(config)
        """2D features attend to 3D features."""
        self.cross_3d = BlendingUnit(config)

    def forward(
        self, flat: torch.Tensor, solid: torch.Tensor, real_2d: torch.Tensor, real_3d: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both sides after the four units, one after another: the last one sees what the third one made."""
        keep_2d, keep_3d = real_2d.unsqueeze(-1), real_3d.unsqueeze(-1)
        flat = self.self_2d(flat, flat, real_2d) * keep_2d
        solid = self.self_3d(solid, solid, real_3d) * keep_3d
        flat = self.cross_2d(flat, solid, real_3d) * keep_2d
        solid = self.cross_3d(solid, flat, real_2d) * keep_3d
        return flat, solid


class Blending(nn.Module):
    def __init__(self, config: BlendingConfig, width_2d: int, width_3d: int) -> None:
        super().__init__()
        self.norm_2d = nn.LayerNorm(width_2d, eps=config.layer_norm_eps)
        self.norm_3d = nn.LayerNorm(width_3d, eps=config.layer_norm_eps)
        self.proj_2d = nn.Linear(width_2d, config.hidden_size)
        self.proj_3d = nn.Linear(width_3d, config.hidden_size)
        self.blocks = nn.ModuleList(BlendingBlock(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, flat: torch.Tensor, solid: torch.Tensor, real_2d: torch.Tensor, real_3d: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Args:
            flat: what the 2D encoder says, (molecules, positions, its width).
            solid: what the 3D encoder says.
            real_2d: which of the positions are.
            real_3d: the same of `solid`.

        Returns:
            Features of both, 2D first, (molecules, positions of both, width), 0 where nothing is; and which are real.
        """
        flat = self.proj_2d(self.norm_2d(flat)) * real_2d.unsqueeze(-1)
        solid = self.proj_3d(self.norm_3d(solid)) * real_3d.unsqueeze(-1)
        for block in self.blocks:
            flat, solid = block(flat, solid, real_2d, real_3d)
        return torch.cat([flat, solid], 1), torch.cat([real_2d, real_3d], 1)
