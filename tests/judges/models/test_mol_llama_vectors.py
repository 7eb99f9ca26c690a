"""Values of every stage of Mol-LLaMA on a small model of our own, written down when it agreed with its original.

The weights are sines of their places, so none need to be stored; the molecules come with their coordinates, so no
conformer is computed. `python tests/judges/models/test_mol_llama_vectors.py` writes the values anew.
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
MOLECULES = (  # SMILES, symbols and coordinates in angstrom; hydrogens of the first are given, and dropped
    ("C=O", "CHHO", [[0, 0, 0], [-0.5, 0.9, 0], [-0.5, -0.9, 0], [1.2, 0, 0]]),
    (
        "[Na+].[O-]/C=C/F",
        ("Na", "O", "C", "C", "F"),
        [[3, 2, 1], [1, 1, 0], [0, 0.2, 0], [-1.2, 0.6, 0.1], [-2, -0.5, 0]],
    ),
    ("O", "O", [[5, 5, 5]]),
)


def shown() -> list[list[MoleculeFeatures]]:
    features = [
        MoleculeFeatures(
            *compute_features_3d(list(symbols), np.array(places, float)),
            *compute_features_2d(parse_smiles(smiles, smiles)),
        )
        for smiles, symbols, places in MOLECULES
    ]
    return [features[:2], features[2:]]


def sines(model: Any) -> Any:
    """The model with weights that are sines of their places; scales are about 1, and running variances positive."""
    with torch.no_grad():
        for k, (name, tensor) in enumerate(sorted(model.state_dict().items())):
            if tensor.is_floating_point():
                values = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * 1.7 + k).view(tensor.shape) * 0.2
                scales = "norm" in name.lower() and not name.endswith(("bias", "running_mean"))
                tensor.copy_(values + 1 if scales or name.endswith("running_var") else values)
    return model.eval()


def computed() -> dict[str, list[float]]:
    """Some values of each stage."""
    with torch.no_grad():
        return _computed()


def _computed() -> dict[str, list[float]]:
    config = build_tiny_config(TOKENS)
    model = sines(MolLlamaForConditionalGeneration(config))
    given = collate_molecules(shown())
    place = config.molecule_token_id
    long = [1, 7, *[place] * 8, 9, *[place] * 8, 3, 2]
    short = [5, *[place] * 8, 11, 2]
    gap = len(long) - len(short)
    ids = torch.tensor([long, [TOKENS] * gap + short])
    mask = torch.tensor([[1] * len(long), [0] * gap + [1] * len(short)])
    real = given["atom_tokens"][..., 0] != 0
    flat, real_2d = model.model.gin(given["atom_features"][real], given["edges"][real], given["edge_features"][real])
    solid, real_3d = model.model.unimol(given["atom_tokens"][real], given["atom_distances"][real])
    blended, _ = model.model.connector.blending(flat, solid, real_2d, real_3d)
    seen = model.model.get_molecule_features(*(tensor[real] for tensor in given.values()))
    logits = model(input_ids=ids, attention_mask=mask, **given).logits[:, -1]
    stages = {
        "gin": flat[:, 1],
        "unimol": solid[:, 1],
        "blending": blended[:, 1],
        "molecules": seen[:, 3],
        "logits": logits,
    }
    return {name: [round(float(one), 6) for one in tensor[:, ::5].flatten()] for name, tensor in stages.items()}


def test_every_stage_has_the_values_that_were_written_down() -> None:
    pytest.importorskip("rdkit")
    stored, now = json.loads(VECTORS.read_text()), computed()
    assert stored.keys() == now.keys()
    for name, values in stored.items():
        assert now[name] == pytest.approx(values, abs=2e-5), name
        assert float(np.std(values)) > 1e-2, name


if __name__ == "__main__":
    VECTORS.parent.mkdir(exist_ok=True)
    VECTORS.write_text("{\n" + ",\n".join(f'"{name}": {values}' for name, values in computed().items()) + "\n}\n")
