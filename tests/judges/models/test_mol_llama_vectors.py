"""Regression values of every stage of Mol-LLaMA on a small model, stored when it matched the original code.

The weights are sines of their indices, so that none need to be stored. The molecules have coordinates, so that no
conformer is computed. `python tests/judges/models/test_mol_llama_vectors.py` regenerates the values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lazy import lazy

torch = lazy("torch")
MolLlamaForConditionalGeneration = lazy("flex_judge.judges.models.mol_llama", "MolLlamaForConditionalGeneration")
MoleculeFeatures, compute_features_2d, compute_features_3d, parse_smiles = lazy(
    "flex_judge.judges.models.mol_llama.features",
    "MoleculeFeatures",
    "compute_features_2d",
    "compute_features_3d",
    "parse_smiles",
)
collate_molecules = lazy("flex_judge.judges.models.mol_llama.graphs", "collate_molecules")
build_tiny_config = lazy("flex_judge.judges.models.mol_llama.tiny", "build_tiny_config")

VECTORS = Path(__file__).parent / "data" / "mol_llama.json"
TOKENS = 40
MOLECULES = (  # SMILES, symbols and coordinates in angstrom; the hydrogens of the first are dropped
    ("C=O", "CHHO", [[0, 0, 0], [-0.5, 0.9, 0], [-0.5, -0.9, 0], [1.2, 0, 0]]),
    (
        "[Na+].[O-]/C=C/F",
        ("Na", "O", "C", "C", "F"),
        [[3, 2, 1], [1, 1, 0], [0, 0.2, 0], [-1.2, 0.6, 0.1], [-2, -0.5, 0]],
    ),
    ("O", "O", [[5, 5, 5]]),
)


def make_molecules() -> list[list[MoleculeFeatures]]:
    features = [
        MoleculeFeatures(
            *compute_features_3d(list(symbols), np.array(places, float)),
            *compute_features_2d(parse_smiles(smiles, smiles)),
        )
        for smiles, symbols, places in MOLECULES
    ]
    return [features[:2], features[2:]]


def fill_with_sines(model: Any) -> Any:
    """Fill the weights with sines of their indices; norm scales are about 1, and running variances positive."""
    with torch.no_grad():
        for k, (name, tensor) in enumerate(sorted(model.state_dict().items())):
            if tensor.is_floating_point():
                values = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 1.7 + k).view(tensor.shape) * 0.2
                is_scale = "norm" in name.lower() and not name.endswith(("bias", "running_mean"))
                tensor.copy_(values + 1 if is_scale or name.endswith("running_var") else values)
    return model.eval()


def compute_stages() -> dict[str, list[float]]:
    """Compute some values of each stage."""
    with torch.no_grad():
        return _compute_stages()


def _compute_stages() -> dict[str, list[float]]:
    config = build_tiny_config(TOKENS)
    model = fill_with_sines(MolLlamaForConditionalGeneration(config))
    graphs = collate_molecules(make_molecules())
    molecule = config.molecule_token_id
    long = [1, 7, *[molecule] * 8, 9, *[molecule] * 8, 3, 2]
    short = [5, *[molecule] * 8, 11, 2]
    gap = len(long) - len(short)
    ids = torch.tensor([long, [TOKENS] * gap + short])
    mask = torch.tensor([[1] * len(long), [0] * gap + [1] * len(short)])
    real = graphs["atom_tokens"][..., 0] != 0
    features_2d, mask_2d = model.model.gin(
        graphs["atom_features"][real], graphs["edges"][real], graphs["edge_features"][real]
    )
    features_3d, mask_3d = model.model.unimol(graphs["atom_tokens"][real], graphs["atom_distances"][real])
    blended, _ = model.model.connector.blending(features_2d, features_3d, mask_2d, mask_3d)
    vectors = model.model.get_molecule_features(*(tensor[real] for tensor in graphs.values()))
    logits = model(input_ids=ids, attention_mask=mask, **graphs).logits[:, -1]
    stages = {
        "gin": features_2d[:, 1],
        "unimol": features_3d[:, 1],
        "blending": blended[:, 1],
        "molecules": vectors[:, 3],
        "logits": logits,
    }
    return {name: [round(float(value), 6) for value in tensor[:, ::5].flatten()] for name, tensor in stages.items()}


def test_every_stage_matches_the_stored_values() -> None:
    pytest.importorskip("rdkit")
    stored, current = json.loads(VECTORS.read_text()), compute_stages()
    assert stored.keys() == current.keys()
    for name, values in stored.items():
        assert current[name] == pytest.approx(values, abs=2e-5), name
        assert float(np.std(values)) > 1e-2, name


if __name__ == "__main__":
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text("{\n" + ",\n".join(f'"{name}": {values}' for name, values in compute_stages().items()) + "\n}\n")
