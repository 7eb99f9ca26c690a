"""Mol-LLaMA (arXiv 2502.13449) as a transformers model: a Llama that takes molecules as input.

Implemented from the paper's description. Importing this package registers it with transformers' `Auto` classes.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor

from flex_judge.judges.models.mol_llama.configuration import MODEL_TYPE, MolLlamaConfig
from flex_judge.judges.models.mol_llama.judging import import_judge
from flex_judge.judges.models.mol_llama.modeling import MolLlamaForConditionalGeneration, MolLlamaModel
from flex_judge.judges.models.mol_llama.processor import MolLlamaProcessor

AutoConfig.register(MODEL_TYPE, MolLlamaConfig, exist_ok=True)
AutoModelForCausalLM.register(MolLlamaConfig, MolLlamaForConditionalGeneration, exist_ok=True)
AutoProcessor.register(MolLlamaConfig, MolLlamaProcessor, exist_ok=True)

__all__ = ["MolLlamaConfig", "MolLlamaForConditionalGeneration", "MolLlamaModel", "MolLlamaProcessor", "import_judge"]
