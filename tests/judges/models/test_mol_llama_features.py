"""What is made of a SMILES string, against values worked out by hand."""

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


def two_d(smiles: str) -> tuple[list[list[int]], list[list[int]], list[list[int]]]:
    atoms, edges, bonds = compute_features_2d(parse_smiles(smiles, "it"))
    return atoms.tolist(), edges.tolist(), bonds.tolist()


def test_a_single_atom_has_no_bond_and_two_hydrogens() -> None:
    assert two_d("O") == ([[7, 0, 2, 5, 2, 0, 2, 0, 0]], [], [])
    water = featurise_molecule("O")
    assert water.tokens.tolist() == [1, 6, 2]
    assert not water.distances.any()
    assert (water.edges.shape, water.bonds.shape) == ((0, 2), (0, 3))


def test_salts_have_their_charges_and_no_bond_between_them() -> None:
    atoms, edges, _ = two_d("[Na+].[Cl-]")
    assert [(atom[0], atom[3]) for atom in atoms] == [(10, 6), (16, 4)]
    assert edges == []
    assert featurise_molecule("[Na+].[Cl-]").tokens.tolist() == [1, 16, 9, 2]


def test_a_bond_has_two_directions_with_the_same_features() -> None:
    _, edges, bonds = two_d("C=O")
    assert edges == [[0, 1], [1, 0]]
    assert bonds == [[1, 0, 0], [1, 0, 0]]


def test_stereo_is_that_of_the_older_perception() -> None:
    assert [bond[1] for bond in two_d("F/C=C/F")[2][2:4]] == [2, 2]  # E
    assert [bond[1] for bond in two_d(r"F/C=C\F")[2][2:4]] == [1, 1]  # Z
    tags = [two_d(smiles)[0][1][1] for smiles in ("N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O")]
    assert sorted(tags) == [1, 2]


def test_the_choice_of_the_perception_is_given_back() -> None:
    from rdkit import Chem

    before = Chem.GetUseLegacyStereoPerception()
    for choice in (True, False):
        Chem.SetUseLegacyStereoPerception(choice)
        two_d("F/C=C/F")
        assert Chem.GetUseLegacyStereoPerception() is choice
    Chem.SetUseLegacyStereoPerception(before)


def test_aromatic_atoms_and_bonds_are_called_so() -> None:
    atoms, _, bonds = two_d("c1ccccc1")
    assert {tuple(atom[6:]) for atom in atoms} == {(1, 1, 1)}
    assert {tuple(bond) for bond in bonds} == {(3, 0, 1)}


def test_hydrogens_are_dropped_unless_nothing_else_is_there() -> None:
    tokens, distances = compute_features_3d(["C", "H", "O"], np.array([[0.0, 0, 0], [9, 9, 9], [2, 0, 0]]))
    assert tokens.tolist() == [1, 4, 6, 2]
    assert distances.tolist() == [[0, 1, 1, 0], [1, 0, 2, 1], [1, 2, 0, 1], [0, 1, 1, 0]]
    assert compute_features_3d(["H", "H"], np.array([[0.0, 0, 0], [0.74, 0, 0]]))[0].tolist() == [1, 8, 8, 2]


def test_an_element_outside_the_vocabulary_is_unknown_and_not_refused() -> None:
    assert featurise_molecule("[U]").tokens.tolist() == [1, 3, 2]


def test_of_a_large_molecule_the_same_atoms_are_kept_every_time() -> None:
    places = np.random.default_rng(1).normal(size=(700, 3))
    one, other = (compute_features_3d(["C"] * 600 + ["N"] * 100, places) for _ in range(2))
    assert len(one[0]) == modules.features.MAX_ATOMS + 2
    assert np.array_equal(one[0], other[0])
    assert np.array_equal(one[1], other[1])
    assert one[0][1:-1].tolist() == sorted(one[0][1:-1].tolist())  # in their order: carbons, then nitrogens


def test_a_conformer_is_the_same_every_time() -> None:
    one, other = (featurise_molecule(tiny.CAFFEINE) for _ in range(2))
    assert np.array_equal(one.distances, other.distances)
    assert 1.1 < one.distances[1, 2] < 1.7  # a bond


@pytest.mark.parametrize(
    ("smiles", "problem"),
    [("C1CC", "no molecule that RDKit can read"), ("", "has no atom"), ("c1ccc1c", "no molecule"), ("ring", "check")],
)
def test_what_is_no_molecule_is_refused_by_name(smiles: str, problem: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MediaError, match=problem) as caught:
        featurise_molecule(smiles, "row 7")
    assert str(caught.value).startswith("row 7: ")
    assert capfd.readouterr().err == ""  # RDKit's own complaints are not printed


def test_a_molecule_without_a_conformer_is_refused() -> None:
    with pytest.raises(MediaError, match="row 3: RDKit can lay out no conformer of it"):
        featurise_molecule("C1#CC1", "row 3")


def test_without_rdkit_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(EngineUnavailableError, match="flex-judge doctor tells how to have it"):
        featurise_molecule("O")


def test_a_batch_pads_each_kind_with_what_means_nothing() -> None:
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
