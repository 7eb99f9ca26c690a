"""The 3D encoder: Uni-Mol, a transformer over the atoms of a conformer and the distances between them.

Its attention bias is no constant: the scores of each layer, before the softmax, are the bias of the next one. That is
why attention is written out here, where torch's own would not give the scores.
"""

from __future__ import annotations

import torch
from torch import nn

from flex_judge.judges.models.mol_llama.configuration import UniMolConfig

PAD = 0
"""The id of no atom."""
_PI = 3.14159  # as the encoder was trained with


class DistanceKernels(nn.Module):
    """Gaussian kernels over distances, each pair of atom types with a scale and a shift of its own."""

    def __init__(self, config: UniMolConfig) -> None:
        super().__init__()
        pairs = config.vocab_size**2
        self.means = nn.Embedding(1, config.num_kernels)
        self.stds = nn.Embedding(1, config.num_kernels)
        self.mul = nn.Embedding(pairs, 1)
        self.bias = nn.Embedding(pairs, 1)

    def forward(self, distances: torch.Tensor, pair_types: torch.Tensor) -> torch.Tensor:
        """Kernel values, float32 (molecules, atoms, atoms, kernels), of distances (molecules, atoms, atoms)."""
        scaled = self.mul(pair_types).float() * distances.float().unsqueeze(-1) + self.bias(pair_types).float()
        widths = self.stds.weight.float().abs() + 1e-5
        normal = torch.exp(-0.5 * ((scaled - self.means.weight.float()) / widths) ** 2)
        return normal / ((2 * _PI) ** 0.5 * widths)


class UniMolLayer(nn.Module):
    """Attention and feed-forward, each behind a norm."""

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
        """Args:
            hidden: (molecules, atoms, width).
            bias: (molecules, heads, atoms, atoms), minus infinity for padded keys.

        Returns:
            The hidden states, and the scores that are the next layer's bias.
        """
        molecules, atoms, width = hidden.shape
        qkv = self.qkv(self.attention_norm(hidden)).view(molecules, atoms, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = (query * (width // self.heads) ** -0.5) @ key.transpose(-1, -2) + bias
        attended = (scores.float().softmax(-1).to(value.dtype) @ value).transpose(1, 2).reshape(hidden.shape)
        hidden = hidden + self.out_proj(attended)
        return hidden + self.fc2(nn.functional.gelu(self.fc1(self.mlp_norm(hidden)))), scores


class UniMol(nn.Module):
    """The encoder. It is frozen wherever Mol-LLaMA is trained."""

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
        """Args:
            tokens: int64 (molecules, atoms), PAD behind the end.
            distances: float32 (molecules, atoms, atoms), in angstrom.

        Returns:
            Hidden states (molecules, atoms, width), and which of them are real, bool (molecules, atoms).
        """
        real = tokens != PAD
        bias = self.compute_pair_bias(tokens, distances).masked_fill(~real[:, None, None], float("-inf"))
        hidden = self.embed_norm(self.embed_tokens(tokens)) * real.unsqueeze(-1)
        for layer in self.layers:
            hidden, bias = layer(hidden, bias)
        return self.norm(hidden), real

    def compute_pair_bias(self, tokens: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
        """The first layer's bias, (molecules, heads, atoms, atoms)."""
        # A pair with padding has type 0, as in the batches that the encoder was trained with.
        real = (tokens != PAD).long()
        types = (tokens.unsqueeze(-1) * self.types + tokens.unsqueeze(-2)) * real.unsqueeze(-1) * real.unsqueeze(-2)
        kernels = self.kernels(distances, types).to(self.bias_in.weight.dtype)
        return self.bias_out(nn.functional.gelu(self.bias_in(kernels))).permute(0, 3, 1, 2)  # type: ignore[no-any-return]
