"""Tiny Mol-LLaMA with random weights, and test molecules."""

from lazy import lazy

build_tiny_config, build_tiny_tokenizer, write_tiny_model, write_tiny_judge = lazy(
    "flex_judge.judges.models.mol_llama.tiny",
    "build_tiny_config",
    "build_tiny_tokenizer",
    "write_tiny_model",
    "write_tiny_judge",
)

__all__ = ["build_tiny_config", "build_tiny_tokenizer", "write_tiny_judge", "write_tiny_model"]

QUERIES = 8
ASPIRIN, CAFFEINE, WATER, SALT = "CC(=O)Oc1ccccc1C(=O)O", "CN1C=NC2=C1C(=O)N(C(=O)N2C)C", "O", "[Na+].[Cl-]"
