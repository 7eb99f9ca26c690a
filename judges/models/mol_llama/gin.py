"""2D encoder: the graph isomorphism network of MoleculeSTM in plain torch."""

from __future__ import annotations

import torch
from torch import nn

from flex_judge.judges.models.mol_llama.configuration import GINConfig

PAD = -1
"""Padding value of atoms, edges and their features."""


class FeatureEmbedding(nn.Module):
    """Sum of one embedding per categorical feature."""

    def __init__(self, sizes: tuple[int, ...] | list[int], width: int) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, width) for size in sizes)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Embed integers (items, features) into vectors (items, width)."""
        return sum(table(features[:, i]) for i, table in enumerate(self.tables))  # type: ignore[return-value]


class GINLayer(nn.Module):
    """Message-passing layer: each node aggregates its neighbours and the bonds to them."""

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
        """Update the node vectors.

        Args:
            nodes: (nodes, width).
            edges: int64 (2, edges): sources and targets.
            bonds: int64 (edges, features).
        """
        source, target = edges
        messages = nn.functional.relu(nodes[source] + self.bonds(bonds))
        aggregated = torch.zeros_like(nodes).index_add_(0, target, messages)
        return self.norm(self.mlp((1 + self.eps) * nodes + aggregated))  # type: ignore[no-any-return]


class GIN(nn.Module):
    """Stack of GIN layers with a mean-pooled molecule vector. Frozen in all Mol-LLaMA training."""

    def __init__(self, config: GINConfig) -> None:
        super().__init__()
        self.atoms = FeatureEmbedding(config.atom_feature_sizes, config.hidden_size)
        self.layers = nn.ModuleList(GINLayer(config) for _ in range(config.num_hidden_layers))

    def forward(
        self, atoms: torch.Tensor, edges: torch.Tensor, bonds: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a padded batch of molecular graphs.

        Args:
            atoms: int64 (molecules, atoms, features), padded with PAD.
            edges: int64 (molecules, edges, 2): source and target atom within the molecule, padded with PAD.
            bonds: int64 (molecules, edges, features): bond features of the edges.

        Returns:
            The molecule's mean vector followed by its atom vectors, (molecules, 1 + atoms, width), 0 at padding; and
            their mask, bool (molecules, 1 + atoms).
        """
        molecules, max_atoms, _ = atoms.shape
        is_atom, is_edge = atoms[..., 0] != PAD, edges[..., 0] != PAD
        # All molecules are joined into one graph without padding, because batch norm must not see padded atoms.
        numbers = is_atom.flatten().cumsum(0).view(is_atom.shape) - 1
        starts = numbers[:, :1, None]
        joined_edges = (edges + starts)[is_edge].T
        hidden = self.atoms(atoms[is_atom])
        for i, layer in enumerate(self.layers):
            hidden = layer(hidden, joined_edges, bonds[is_edge])
            if i + 1 < len(self.layers):
                hidden = nn.functional.relu(hidden)
        nodes = hidden.new_zeros(molecules, max_atoms, hidden.shape[-1])
        nodes[is_atom] = hidden
        mean = nodes.sum(1, keepdim=True) / is_atom.sum(1)[:, None, None]
        return torch.cat([mean, nodes], 1), nn.functional.pad(is_atom, (1, 0), value=True)
