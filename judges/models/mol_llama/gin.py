"""The 2D encoder: the graph isomorphism network of MoleculeSTM, in plain torch."""

from __future__ import annotations

import torch
from torch import nn

from flex_judge.judges.models.mol_llama.configuration import GINConfig

PAD = -1
"""In the place of a feature or an atom that is not there."""


class FeatureEmbedding(nn.Module):
    """The sum of an embedding for each feature."""

    def __init__(self, sizes: tuple[int, ...] | list[int], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Vectors (items, width) of integers (items, features)."""
        return sum(table(features[:, i]) for i, table in enumerate(self.tables))  # type: ignore[return-value]


class GINLayer(nn.Module):
    """Each node takes in its neighbours, and the bonds to them."""

    def __init__(self, config: GINConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.bonds = FeatureEmbedding(config.bond_feature_sizes, width)
        self.eps = nn.Parameter(torch.zeros(1))
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.BatchNorm1d(2 * width, eps=config.batch_norm_eps),
            nn.ReLU(),
            nn.Linear(2 * width, width),
        )
        self.norm = nn.BatchNorm1d(width, eps=config.batch_norm_eps)

    def forward(self, nodes: torch.Tensor, edges: torch.Tensor, bonds: torch.Tensor) -> torch.Tensor:
        """Args:
        nodes: (nodes, width).
        edges: int64 (2, edges): sources, and targets.
        bonds: int64 (edges, features).
        """
        source, target = edges
        messages = nn.functional.relu(nodes[source] + self.bonds(bonds))
        gathered = torch.zeros_like(nodes).index_add_(0, target, messages)
        return self.norm(self.mlp((1 + self.eps) * nodes + gathered))  # type: ignore[no-any-return]


class GIN(nn.Module):
    """The encoder. It is frozen wherever Mol-LLaMA is trained."""

    def __init__(self, config: GINConfig) -> None:
        super().__init__()
        self.atoms = FeatureEmbedding(config.atom_feature_sizes, config.hidden_size)
        self.layers = nn.ModuleList(GINLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, atoms: torch.Tensor, edges: torch.Tensor, bonds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Args:
            atoms: int64 (molecules, atoms, features), PAD behind the last atom.
            edges: int64 (molecules, edges, 2): source and target, atoms of the molecule; PAD behind the last edge.
            bonds: int64 (molecules, edges, features), of the edges.

        Returns:
            The mean of a molecule's atoms and then its atoms, (molecules, 1 + atoms, width), 0 behind the last; and
            which of them are real, bool (molecules, 1 + atoms).
        """
        molecules, most, _ = atoms.shape
        is_atom, is_edge = atoms[..., 0] != PAD, edges[..., 0] != PAD
        # All molecules are one graph, of which only what is real is computed.
        numbers = is_atom.flatten().cumsum(0).view(is_atom.shape) - 1
        starts = numbers[:, :1, None]
        joined = (edges + starts)[is_edge].T
        hidden = self.atoms(atoms[is_atom])
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden, joined, bonds[is_edge])
            if i + 1 < len(self.layers):
                hidden = nn.functional.relu(hidden)
        nodes = hidden.new_zeros(molecules, most, hidden.shape[-1])
        nodes[is_atom] = hidden
        mean = nodes.sum(1, keepdim=True) / is_atom.sum(1)[:, None, None]
        return torch.cat([mean, nodes], 1), nn.functional.pad(is_atom, (1, 0), value=True)
