"""A tiny Mol-LLaMA with random weights, and molecules to show it."""

from lazy import lazy

tiny_config, tiny_tokenizer, write_tiny, write_tiny_judge = lazy(
    "flex_judge.judges.models.mol_llama.tiny", "tiny_config", "tiny_tokenizer", "write_tiny", "write_tiny_judge"
)

__all__ = ["tiny_config", "tiny_tokenizer", "write_tiny", "write_tiny_judge"]

QUERIES = 8
ASPIRIN, CAFFEINE, WATER, SALT = "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "O", "[Na+].[Cl-]"
