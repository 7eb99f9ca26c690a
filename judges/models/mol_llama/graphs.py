"""Collation of molecule features into batched model inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from flex_judge.judges.models.mol_llama.features import MoleculeFeatures

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GRAPHS = ("atom_tokens", "atom_distances", "atom_features", "edges", "edge_features")
"""Names of the model's molecule inputs, see `MolLlamaModel.forward`."""
_PADDING = {"atom_tokens": 0, "atom_distances": 0}
"""Padding values other than -1."""


def collate_molecules(prompts: Sequence[Sequence[MoleculeFeatures]]) -> dict[str, torch.Tensor]:
    """Pad and stack the molecules of a batch of prompts.

    Args:
        prompts: molecules of each prompt, in the order of their placeholders.

    Returns:
        Tensors of shape (prompts, molecules, ...) for each name in GRAPHS; an empty dictionary without molecules.
    """
    max_molecules = max((len(molecules) for molecules in prompts), default=0)
    if not max_molecules:
        return {}
    named = [[_name_arrays(molecule) for molecule in molecules] for molecules in prompts]
    return {
        name: _pad_arrays([[arrays[name] for arrays in molecules] for molecules in named], max_molecules, name)
        for name in GRAPHS
    }


def _name_arrays(molecule: MoleculeFeatures) -> dict[str, NDArray[np.generic]]:
    arrays = (molecule.tokens, molecule.distances, molecule.atoms, molecule.edges, molecule.bonds)
    return dict(zip(GRAPHS, arrays, strict=True))


def _pad_arrays(prompts: Sequence[Sequence[NDArray[np.generic]]], max_molecules: int, name: str) -> torch.Tensor:
    """Stack arrays of one kind into a tensor (prompts, molecules, ...), padded to the largest of them."""
    arrays = [array for molecules in prompts for array in molecules]
    shape = [max(array.shape[axis] for array in arrays) for axis in range(arrays[0].ndim)]
    dtype = torch.from_numpy(arrays[0]).dtype
    # Absent molecules of shorter prompts remain all padding.
    tensor = torch.full((len(prompts), max_molecules, *shape), _PADDING.get(name, -1), dtype=dtype)
    for i, molecules in enumerate(prompts):
        for k, array in enumerate(molecules):
            tensor[(i, k, *map(slice, array.shape))] = torch.from_numpy(array)
    return tensor
