"""3D encoder: Uni-Mol, a transformer over the atoms of a conformer and their pairwise distances.

Each layer's attention scores, before the softmax, are the attention bias of the next layer. Attention is therefore
written out here: torch's implementation does not return the scores.
"""

from __future__ import annotations

import torch
from torch import nn

from flex_judge.judges.models.mol_llama.configuration import UniMolConfig

PAD = 0
"""Token id of padding."""
_PI = 3.14159  # the constant that the encoder was trained with


class DistanceKernels(nn.Module):
    """Gaussian kernels over distances, with a learned scale and shift for each pair of atom types."""

    def __init__(self, config: UniMolConfig) -> None:
        super().__init__()
        pairs = config.vocab_size**2
        self.means = nn.Embedding(1, config.num_kernels)
        self.stds = nn.Embedding(1, config.num_kernels)
        self.mul = nn.Embedding(pairs, 1)
        self.bias = nn.Embedding(pairs, 1)

    def forward(self, distances: torch.Tensor, pair_types: torch.Tensor) -> torch.Tensor:
        """Compute kernel values, float32 (molecules, atoms, atoms, kernels), of distances (molecules, atoms, atoms)."""
        # In float32 also for half-precision weights: the exponent is too sensitive.
        scaled = self.mul(pair_types).float() * distances.float().unsqueeze(-1) + self.bias(pair_types).float()
        widths = self.stds.weight.float().abs() + 1e-5
        normal = torch.exp(-0.5 * ((scaled - self.means.weight.float()) / widths) ** 2)
        return normal / ((2 * _PI) ** 0.5 * widths)


class UniMolLayer(nn.Module):
    """Pre-norm transformer layer."""

    def __init__(self, config: UniMolConfig) -> None:
        super().__init__()
        width, self.heads = config.hidden_size, config.num_attention_heads
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(width, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, width)

    def forward(self, hidden: torch.Tensor, bias: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Apply the layer.

        Args:
            hidden: (molecules, atoms, width).
            bias: attention bias, (molecules, heads, atoms, atoms), minus infinity for padded keys.

        Returns:
            The hidden states, and the attention scores, which are the next layer's bias.
        """
        molecules, atoms, width = hidden.shape
        qkv = self.qkv(self.attention_norm(hidden)).view(molecules, atoms, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = (query * (width // self.heads) ** -0.5) @ key.transpose(-1, -2) + bias
        attended = (scores.float().softmax(-1).to(value.dtype) @ value).transpose(1, 2).reshape(hidden.shape)
        hidden = hidden + self.out_proj(attended)
        return hidden + self.fc2(nn.functional.gelu(self.fc1(self.mlp_norm(hidden)))), scores


class UniMol(nn.Module):
    """Atom embedding, distance kernels and transformer layers. Frozen in all Mol-LLaMA training."""

    def __init__(self, config: UniMolConfig) -> None:
        super().__init__()
        self.types = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, PAD)
        self.embed_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.kernels = DistanceKernels(config)
        self.bias_in = nn.Linear(config.num_kernels, config.num_kernels)
        self.bias_out = nn.Linear(config.num_kernels, config.num_attention_heads)
        self.layers = nn.ModuleList(UniMolLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, tokens: torch.Tensor, distances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a padded batch of conformers.

        Args:
            tokens: int64 (molecules, atoms), padded with PAD.
            distances: float32 (molecules, atoms, atoms), in angstrom.

        Returns:
            Hidden states (molecules, atoms, width), and their mask, bool (molecules, atoms).
        """
        mask = tokens != PAD
        bias = self.compute_pair_bias(tokens, distances).masked_fill(~mask[:, None, None], float("-inf"))
        hidden = self.embed_norm(self.embed_tokens(tokens)) * mask.unsqueeze(-1)
        for layer in self.layers:
            hidden, bias = layer(hidden, bias)
        return self.norm(hidden), mask

    def compute_pair_bias(self, tokens: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        """Compute the first layer's attention bias, (molecules, heads, atoms, atoms)."""
        # Pairs with padding get type 0, as in the encoder's training.
        mask = (tokens != PAD).long()
        types = (tokens.unsqueeze(-1) * self.types + tokens.unsqueeze(-2)) * mask.unsqueeze(-1) * mask.unsqueeze(-2)
        kernels = self.kernels(distances, types).to(self.bias_in.weight.dtype)
        return self.bias_out(nn.functional.gelu(self.bias_in(kernels))).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
