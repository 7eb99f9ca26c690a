"""Molecule featurisation: from a SMILES string through RDKit to the input arrays of the 2D and the 3D encoder.

Bond stereo labels come from RDKit's legacy perception, which the 2D encoder was trained with. The newer perception
labels a bond cis or trans instead of Z or E, which selects another row of the embedding table.
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
"""Maximum number of heavy atoms that the 3D encoder takes."""
SEED = 42
"""Random seed of the conformer, so that equal SMILES strings give equal conformers everywhere."""
ATTEMPTS = 10
"""Maximum number of RDKit's attempts to embed a conformer."""
LARGE = 150
"""Number of heavy atoms above which further attempts take too long."""
MAX_FORCE_FIELD_STEPS = 200
_START, _END, _UNKNOWN = 1, 2, 3  # token ids: [CLS], [SEP] and [UNK] in SYMBOLS
SYMBOLS = (
    *("[PAD]", "[CLS]", "[SEP]", "[UNK]"),
    *("C", "N", "O", "S", "H", "Cl", "F", "Br", "I", "Si", "P", "B", "Na", "K", "Al", "Ca", "Sn", "As", "Hg", "Fe"),
    *("Zn", "Cr", "Se", "Gd", "Au", "Li", "[MASK]"),
)
"""Vocabulary of the 3D encoder. A symbol's token id is its index."""
_IDS = {symbol: i for i, symbol in enumerate(SYMBOLS)}
_LOCK = threading.Lock()  # RDKit's choice of stereo perception is global to the process


@dataclass(frozen=True, eq=False)
class MoleculeFeatures:
    """Input arrays of one molecule. All prompts with the molecule share them, so they must not be modified."""

    tokens: NDArray[np.int64]
    """Token ids of the 3D encoder, (heavy atoms + 2,): start, atoms, end."""
    distances: NDArray[np.float32]
    """Pairwise distances in angstrom, (heavy atoms + 2, heavy atoms + 2). Start and end lie at the centroid."""
    atoms: NDArray[np.int64]
    """Atom features of the 2D encoder, (atoms, 9), in SMILES order."""
    edges: NDArray[np.int64]
    """Source and target atoms, (2 * bonds, 2). Each bond gives two consecutive edges, one per direction."""
    bonds: NDArray[np.int64]
    """Bond features of each edge, (2 * bonds, 3)."""

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes."""
        return sum(int(array.nbytes) for array in vars(self).values())


def featurise_molecule(smiles: str, name: str = "") -> MoleculeFeatures:
    """Compute the features of a molecule. Generating the conformer takes milliseconds to seconds.

    Args:
        smiles: a SMILES string, with any number of fragments, charges and stereo marks.
        name: name of the molecule in error messages.

    Raises:
        MediaError: the string is no valid SMILES, has no atoms, or RDKit finds no conformer.
        EngineUnavailableError: RDKit is not installed.
    """
    name = name or f"molecule {smiles:.60}"
    molecule = parse_smiles(smiles, name)
    tokens, distances = compute_features_3d(*generate_conformer(molecule, name))
    return MoleculeFeatures(tokens, distances, *compute_features_2d(molecule))


def parse_smiles(smiles: str, name: str) -> Any:
    """Parse a SMILES string into an RDKit molecule with implicit hydrogens; raises as `featurise_molecule`."""
    with _import_rdkit() as chem, _use_legacy_stereo(chem):
        molecule = chem.MolFromSmiles(smiles)
    if molecule is None:
        raise MediaError(f"{name}: RDKit cannot parse it; check the SMILES string {smiles!r:.80}")
    if not molecule.GetNumAtoms():
        raise MediaError(f"{name}: has no atoms; check the SMILES string")
    return molecule


def generate_conformer(molecule: Any, name: str) -> tuple[list[str], NDArray[np.float64]]:
    """Generate a 3D conformer: ETKDG with a fixed seed, then MMFF94 relaxation if it covers all atoms.

    Returns:
        Symbols of all atoms, hydrogens included, and their coordinates (atoms, 3) in angstrom.

    Raises:
        MediaError: RDKit finds no conformer.
    """
    from rdkit.Chem import AddHs, rdDistGeom, rdForceFieldHelpers

    with_hydrogens = AddHs(molecule)
    options: Any = rdDistGeom.ETKDGv3()
    options.randomSeed = SEED
    options.maxIterations = ATTEMPTS
    with _silence_rdkit():
        failed = rdDistGeom.EmbedMolecule(with_hydrogens, options) < 0
        if failed:
            # Random start coordinates often succeed when distance geometry fails, as on large ring systems.
            options.useRandomCoords = True
            options.maxIterations = ATTEMPTS if molecule.GetNumHeavyAtoms() < LARGE else 1
            failed = rdDistGeom.EmbedMolecule(with_hydrogens, options) < 0
        if failed:
            raise MediaError(f"{name}: RDKit finds no conformer, which the model needs; leave this molecule out")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(with_hydrogens):
            rdForceFieldHelpers.MMFFOptimizeMolecule(with_hydrogens, maxIters=MAX_FORCE_FIELD_STEPS)
    symbols = [atom.GetSymbol() for atom in with_hydrogens.GetAtoms()]
    return symbols, with_hydrogens.GetConformer().GetPositions()


def compute_features_3d(
    symbols: Sequence[str], coordinates: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Compute the inputs of the 3D encoder, see `MoleculeFeatures`.

    Hydrogens are dropped unless the molecule has no other atoms. Molecules above MAX_ATOMS heavy atoms are subsampled
    at random with a fixed seed, as in the encoder's training.

    Returns:
        Token ids and pairwise distances.
    """
    import numpy as np

    indices = np.array([i for i, symbol in enumerate(symbols) if symbol != "H"] or range(len(symbols)))
    if len(indices) > MAX_ATOMS:
        indices = np.sort(np.random.default_rng(SEED).choice(indices, MAX_ATOMS, replace=False))
    atoms = np.asarray(coordinates, np.float64)[indices]
    # Start and end token take the centroid, which is the origin after centring.
    points = np.concatenate([np.zeros((1, 3)), atoms - atoms.mean(0), np.zeros((1, 3))])
    ids = [_IDS.get(symbols[i], _UNKNOWN) for i in indices]
    distances = np.linalg.norm(points[:, None] - points[None], axis=-1)
    return np.array([_START, *ids, _END], np.int64), distances.astype(np.float32)


def compute_features_2d(molecule: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Compute the inputs of the 2D encoder: atoms, edges and bonds, see `MoleculeFeatures`."""
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
    # Order, ranges and the last index for "other" are fixed by the pretrained encoder's embedding tables.
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
    stereo_labels = ("STEREONONE", "STEREOZ", "STEREOE", "STEREOCIS", "STEREOTRANS", "STEREOANY")
    return [
        _find_index(str(bond.GetBondType()), ("SINGLE", "DOUBLE", "TRIPLE", "AROMATIC")),
        _find_index(str(bond.GetStereo()), stereo_labels),
        int(bond.GetIsConjugated()),
    ]


def _find_index(value: str, labels: Sequence[str]) -> int:
    """Return the index of a label; `len(labels)` for any other value."""
    return labels.index(value) if value in labels else len(labels)


@contextlib.contextmanager
def _import_rdkit() -> Iterator[Any]:
    """Import RDKit's `Chem` module and silence its log within the block."""
    try:
        from rdkit import Chem
    except ImportError as e:
        raise EngineUnavailableError(
            "molecules need RDKit, which is not installed; run flex-judge doctor for the install command"
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
    """Use RDKit's legacy stereo perception within the block."""
    with _LOCK:
        previous = chem.GetUseLegacyStereoPerception()
        chem.SetUseLegacyStereoPerception(True)
        try:
            yield
        finally:
            chem.SetUseLegacyStereoPerception(previous)
