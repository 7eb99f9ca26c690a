"""Features of molecules, compared with values worked out by hand."""

from __future__ import annotations

import sys

import mol_llama as tiny
import numpy as np
import pytest
from lazy import lazy

from flex_judge.judges.errors import EngineUnavailableError, MediaError

MoleculeFeatures, compute_features_2d, compute_features_3d, featurise_molecule, parse_smiles = lazy(
    "flex_judge.judges.models.mol_llama.features",
    "MoleculeFeatures",
    "compute_features_2d",
    "compute_features_3d",
    "featurise_molecule",
    "parse_smiles",
)
modules = lazy("flex_judge.judges.models.mol_llama")
collate_molecules = lazy("flex_judge.judges.models.mol_llama.graphs", "collate_molecules")

pytest.importorskip("rdkit")


def compute_2d(smiles: str) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    atoms, edges, bonds = compute_features_2d(parse_smiles(smiles, "it"))
    return atoms.tolist(), edges.tolist(), bonds.tolist()


def test_single_atom_has_no_bonds_and_two_hydrogens() -> None:
    assert compute_2d("O") == ([[7, 0, 2, 5, 2, 0, 2, 0, 0]], [], [])
    water = featurise_molecule("O")
    assert water.tokens.tolist() == [1, 6, 2]
    assert not water.distances.any()
    assert (water.edges.shape, water.bonds.shape) == ((0, 2), (0, 3))


def test_salt_has_charges_and_no_bonds() -> None:
    atoms, edges, _ = compute_2d("[Na+].[Cl-]")
    assert [(atom[0], atom[3]) for atom in atoms] == [(10, 6), (16, 4)]
    assert edges == []
    assert featurise_molecule("[Na+].[Cl-]").tokens.tolist() == [1, 16, 9, 2]


def test_bond_gives_two_edges_with_equal_features() -> None:
    _, edges, bonds = compute_2d("C=O")
    assert edges == [[0, 1], [1, 0]]
    assert bonds == [[1, 0, 0], [1, 0, 0]]


def test_stereo_labels_use_the_legacy_perception() -> None:
    assert [bond[1] for bond in compute_2d("F/C=C/F")[2][2:4]] == [2, 2]  # E
    assert [bond[1] for bond in compute_2d(r"F/C=C\F")[2][2:4]] == [1, 1]  # Z
    tags = [compute_2d(smiles)[0][1][1] for smiles in ("N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O")]
    assert sorted(tags) == [1, 2]


def test_stereo_perception_setting_is_restored() -> None:
    from rdkit import Chem

    original = Chem.GetUseLegacyStereoPerception()
    for choice in (True, False):
        Chem.SetUseLegacyStereoPerception(choice)
        compute_2d("F/C=C/F")
        assert Chem.GetUseLegacyStereoPerception() is choice
    Chem.SetUseLegacyStereoPerception(original)


def test_aromatic_atoms_and_bonds_are_marked() -> None:
    atoms, _, bonds = compute_2d("c1ccccc1")
    assert {tuple(atom[6:]) for atom in atoms} == {(1, 1, 1)}
    assert {tuple(bond) for bond in bonds} == {(3, 0, 1)}


def test_hydrogens_are_dropped_unless_there_are_no_other_atoms() -> None:
    tokens, distances = compute_features_3d(["C", "H", "O"], np.array([[0.0, 0, 0], [9, 9, 9], [2, 0, 0]]))
    assert tokens.tolist() == [1, 4, 6, 2]
    assert distances.tolist() == [[0, 1, 1, 0], [1, 0, 2, 1], [1, 2, 0, 1], [0, 1, 1, 0]]
    assert compute_features_3d(["H", "H"], np.array([[0.0, 0, 0], [0.74, 0, 0]]))[0].tolist() == [1, 8, 8, 2]


def test_element_outside_the_vocabulary_becomes_unknown() -> None:
    assert featurise_molecule("[U]").tokens.tolist() == [1, 3, 2]


def test_large_molecule_is_subsampled_deterministically() -> None:
    places = np.random.default_rng(1).normal(size=(700, 3))
    first, second = (compute_features_3d(["C"] * 600 + ["N"] * 100, places) for _ in range(2))
    assert len(first[0]) == modules.features.MAX_ATOMS + 2
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert first[0][1:-1].tolist() == sorted(first[0][1:-1].tolist())  # in SMILES order: carbons, then nitrogens


def test_conformer_is_deterministic() -> None:
    first, second = (featurise_molecule(tiny.CAFFEINE) for _ in range(2))
    assert np.array_equal(first.distances, second.distances)
    assert 1.1 < first.distances[1, 2] < 1.7  # a bond


@pytest.mark.parametrize(
    ("smiles", "problem"),
    [("C1CC", "RDKit cannot parse it"), ("", "has no atoms"), ("c1ccc1c", "cannot parse"), ("ring", "check")],
)
def test_invalid_molecule_is_rejected_by_name(smiles: str, problem: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MediaError, match=problem) as caught:
        featurise_molecule(smiles, "row 7")
    assert str(caught.value).startswith("row 7: ")
    assert capfd.readouterr().err == ""  # RDKit's log is silenced


def test_molecule_without_a_conformer_is_rejected() -> None:
    with pytest.raises(MediaError, match="row 3: RDKit finds no conformer"):
        featurise_molecule("C1#CC1", "row 3")


def test_missing_rdkit_error_names_the_doctor_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(EngineUnavailableError, match="run flex-judge doctor for the install command"):
        featurise_molecule("O")


def test_batch_is_padded_with_neutral_values() -> None:
    prompts: list[list[MoleculeFeatures]] = [
        [featurise_molecule("O"), featurise_molecule("CC")],
        [],
        [featurise_molecule("C=O")],
    ]
    tensors = collate_molecules(prompts)
    assert tuple(tensors) == modules.graphs.GRAPHS
    assert tensors["atom_tokens"].tolist() == [
        [[1, 6, 2, 0], [1, 4, 4, 2]],
        [[0, 0, 0, 0], [0, 0, 0, 0]],
        [[1, 4, 6, 2], [0, 0, 0, 0]],
    ]
    assert tensors["edges"][0].tolist() == [[[-1, -1], [-1, -1]], [[0, 1], [1, 0]]]
    assert tensors["atom_features"].shape == (3, 2, 2, 9)
    assert (tensors["atom_features"][1] == -1).all()
    assert collate_molecules([[], []]) == {}
