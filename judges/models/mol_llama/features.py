"""A molecule as the two encoders take it: from a SMILES string through RDKit to integers and distances.

Stereo labels of double bonds are those of RDKit's older perception, with which the 2D encoder was trained: the newer
one calls a bond cis or trans where the older says Z or E, and so takes another row of the embedding table.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import EngineUnavailableError, MediaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_ATOMS = 512
"""Heavy atoms that the 3D encoder sees."""
SEED = 42
"""Of the conformer: the same SMILES has the same one everywhere."""
ATTEMPTS = 10
LARGE = 150
"""Heavy atoms from which on another try takes too long."""
MAX_FORCE_FIELD_STEPS = 200
_START, _END, _UNKNOWN = 1, 2, 3
SYMBOLS = (
    *("[PAD]", "[CLS]", "[SEP]", "[UNK]"),
    *("C", "N", "O", "S", "H", "Cl", "F", "Br", "I", "Si", "P", "B", "Na", "K", "Al", "Ca", "Sn", "As", "Hg", "Fe"),
    *("Zn", "Cr", "Se", "Gd", "Au", "Li", "[MASK]"),
)
"""The vocabulary of the 3D encoder: an atom's id is the place of its symbol."""
_IDS = {symbol: i for i, symbol in enumerate(SYMBOLS)}
_LOCK = threading.Lock()  # the choice of the perception is one of the whole process


@dataclass(frozen=True, eq=False)
class MoleculeFeatures:
    """One molecule. Shared by all prompts that show it, so its arrays are not to be changed."""

    tokens: NDArray[np.int64]
    """Of the 3D encoder, (heavy atoms + 2,): a start, the atoms, an end."""
    distances: NDArray[np.float32]
    """Between them in angstrom, (heavy atoms + 2, heavy atoms + 2); start and end are at the middle."""
    atoms: NDArray[np.int64]
    """Of the 2D encoder, (atoms, 9), in the order of the SMILES."""
    edges: NDArray[np.int64]
    """(2 * bonds, 2): source and target. A bond has two, one after the other."""
    bonds: NDArray[np.int64]
    """(2 * bonds, 3), of the edges."""

    @property
    def nbytes(self) -> int:
        return sum(int(array.nbytes) for array in vars(self).values())


def featurise_molecule(smiles: str, name: str = "") -> MoleculeFeatures:
    """The features of a molecule. The conformer is computed, which takes from milliseconds to seconds.

    Args:
        smiles: any number of fragments, charges and stereo marks.
        name: what messages call it.

    Raises:
        MediaError: it is no SMILES, has no atom, or RDKit can lay out no conformer.
        EngineUnavailableError: RDKit is not installed.
    """
    name = name or f"molecule {smiles:.60}"
    molecule = parse_smiles(smiles, name)
    tokens, distances = compute_features_3d(*generate_conformer(molecule, name))
    return MoleculeFeatures(tokens, distances, *compute_features_2d(molecule))


def parse_smiles(smiles: str, name: str) -> Any:
    """RDKit's molecule, in the order of the SMILES and with implicit hydrogens. Raises as `featurise`."""
    with _import_rdkit() as chem, _use_legacy_stereo(chem):
        molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        raise MediaError(f"{name}: is no molecule that RDKit can read; check the SMILES {smiles!r:.80}")
    if not molecule.GetNumAtoms():
        raise MediaError(f"{name}: has no atom")
    return molecule


def generate_conformer(molecule: Any, name: str) -> tuple[list[str], NDArray[np.float64]]:
    """Symbols and coordinates (atoms, 3), in angstrom, of a conformer with its hydrogens: embedded by RDKit's ETKDG
    with a fixed seed, from random coordinates where that fails, and relaxed with MMFF94 where that knows the atoms.

    Raises:
        MediaError: there is none.
    """
    from rdkit.Chem import AddHs, rdDistGeom, rdForceFieldHelpers

    whole = AddHs(molecule)
    options: Any = rdDistGeom.ETKDGv3()
    options.randomSeed = SEED
    options.maxIterations = ATTEMPTS
    with _silence_rdkit():
        failed = rdDistGeom.EmbedMolecule(whole, options) < 0
        if failed:
            options.useRandomCoords = True
            options.maxIterations = ATTEMPTS if molecule.GetNumHeavyAtoms() < LARGE else 1
            failed = rdDistGeom.EmbedMolecule(whole, options) < 0
        if failed:
            raise MediaError(f"{name}: RDKit can lay out no conformer of it, which the model needs; leave it out")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(whole):
            rdForceFieldHelpers.MMFFOptimizeMolecule(whole, maxIters=MAX_FORCE_FIELD_STEPS)
    return [atom.GetSymbol() for atom in whole.GetAtoms()], whole.GetConformer().GetPositions()


def compute_features_3d(
    symbols: Sequence[str], coordinates: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Token ids and distances of a conformer, see `MoleculeFeatures`; hydrogens are left out unless all are.

    Of more than MAX_ATOMS heavy atoms so many are kept, drawn by lot with a fixed seed, as the encoder was trained.
    """
    import numpy as np

    kept = np.array([i for i, symbol in enumerate(symbols) if symbol != "H"] or range(len(symbols)))
    if len(kept) > MAX_ATOMS:
        kept = np.sort(np.random.default_rng(SEED).choice(kept, MAX_ATOMS, replace=False))
    places = np.asarray(coordinates, np.float64)[kept]
    places = np.concatenate([np.zeros((1, 3)), places - places.mean(0), np.zeros((1, 3))])
    ids = [_IDS.get(symbols[i], _UNKNOWN) for i in kept]
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return np.array([_START, *ids, _END], np.int64), distances.astype(np.float32)


def compute_features_2d(molecule: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Atoms, edges and the bonds of the edges, see `MoleculeFeatures`."""
    import numpy as np

    atoms = [_encode_atom(atom) for atom in molecule.GetAtoms()]
    edges, bonds = [], []
    for bond in molecule.GetBonds():
        first, second = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        edges += [(first, second), (second, first)]
        bonds += [_encode_bond(bond)] * 2
    return (
        np.array(atoms, np.int64),
        np.array(edges, np.int64).reshape(-1, 2),
        np.array(bonds, np.int64).reshape(-1, 3),
    )


def _encode_atom(atom: Any) -> list[int]:
    number, charge = atom.GetAtomicNum(), atom.GetFormalCharge()
    return [
        number - 1 if 1 <= number <= 118 else 118,
        _find_index(str(atom.GetChiralTag()), ("CHI_UNSPECIFIED", "CHI_TETRAHEDRAL_CW", "CHI_TETRAHEDRAL_CCW")),
        min(atom.GetTotalDegree(), 11),
        charge + 5 if -5 <= charge <= 5 else 11,
        min(atom.GetTotalNumHs(), 9),
        min(atom.GetNumRadicalElectrons(), 5),
        _find_index(str(atom.GetHybridization()), ("SP", "SP2", "SP3", "SP3D", "SP3D2")),
        int(atom.GetIsAromatic()),
        int(atom.IsInRing()),
    ]


def _encode_bond(bond: Any) -> list[int]:
    return [
        _find_index(str(bond.GetBondType()), ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")),
        _find_index(
            str(bond.GetStereo()), ("STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY")
        ),
        int(bond.GetIsConjugated()),
    ]


def _find_index(value: str, known: Sequence[str]) -> int:
    """The place of a value, or the one behind all."""
    return known.index(value) if value in known else len(known)


@contextlib.contextmanager
def _import_rdkit() -> Iterator[Any]:
    """RDKit's module of molecules, with its complaints kept off standard error."""
    try:
        from rdkit import Chem
    except ImportError as e:
        raise EngineUnavailableError(
            "molecules need RDKit, which is not installed; flex-judge doctor tells how to have it"
        ) from e
    with _silence_rdkit():
        yield Chem


@contextlib.contextmanager
def _silence_rdkit() -> Iterator[None]:
    from rdkit import rdBase

    with rdBase.BlockLogs():
        yield


@contextlib.contextmanager
def _use_legacy_stereo(chem: Any) -> Iterator[None]:
    with _LOCK:
        before = chem.GetUseLegacyStereoPerception()
        chem.SetUseLegacyStereoPerception(True)
        try:
            yield
        finally:
            chem.SetUseLegacyStereoPerception(before)
