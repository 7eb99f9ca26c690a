"""Molecules as tensors of one batch: what the model takes beside token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from flex_judge.judges.models.mol_llama.features import MoleculeFeatures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GRAPHS = ("atom_tokens", "atom_distances", "atom_features", "edges", "edge_features")
"""The model's arguments for molecules, see `MolLlamaModel.forward`."""
_NOTHING = {"atom_tokens": 0, "atom_distances": 0}
"""What padding is, where it is not -1."""


def collate_molecules(prompts: Sequence[Sequence[MoleculeFeatures]]) -> dict[str, torch.Tensor]:
    """The molecules of each prompt, in the order of their placeholders, as the model's arguments GRAPHS. Nothing where
    no prompt has one.
    """
    most = max((len(molecules) for molecules in prompts), default=0)
    if not most:
        return {}
    return {
        name: _pad_arrays([[_name_arrays(one)[name] for one in molecules] for molecules in prompts], most, name)
        for name in GRAPHS
    }


def _name_arrays(one: MoleculeFeatures) -> dict[str, NDArray[np.generic]]:
    arrays = (one.tokens, one.distances, one.atoms, one.edges, one.bonds)
    return dict(zip(GRAPHS, arrays, strict=True))


def _pad_arrays(prompts: Sequence[Sequence[NDArray[np.generic]]], most: int, name: str) -> torch.Tensor:
    """Arrays of one kind in a tensor (prompts, molecules, ...), each as large as the largest."""
    known = [array for arrays in prompts for array in arrays]
    shape = [max(array.shape[axis] for array in known) for axis in range(known[0].ndim)]
    tensor = torch.full((len(prompts), most, *shape), _NOTHING.get(name, -1), dtype=torch.from_numpy(known[0]).dtype)
    for i, arrays in enumerate(prompts):
        for k, array in enumerate(arrays):
            tensor[(i, k, *map(slice, array.shape))] = torch.from_numpy(array)
    return tensor
