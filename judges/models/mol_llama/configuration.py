"""Configuration of Mol-LLaMA (arXiv 2502.13449). The defaults are the dimensions of the released 8B model."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from flex_judge.judges.models.mol_llama.features import SYMBOLS

MODEL_TYPE = "mol_llama"


class UniMolConfig(PreTrainedConfig):
    """3D encoder (Uni-Mol): a transformer over atoms whose attention scores accumulate from layer to layer."""

    model_type = "mol_llama_unimol"
    base_config_key = "unimol_config"

    vocab_size: int = len(SYMBOLS)
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 15
    num_attention_heads: int = 64
    num_kernels: int = 128
    """Number of Gaussian kernels over interatomic distances."""
    layer_norm_eps: float = 1e-5


class GINConfig(PreTrainedConfig):
    """2D encoder: the graph isomorphism network of MoleculeSTM."""

    model_type = "mol_llama_gin"
    base_config_key = "gin_config"

    hidden_size: int = 300
    num_hidden_layers: int = 5
    atom_feature_sizes: tuple[int, ...] | list[int] = (119, 4, 12, 12, 10, 6, 6, 2, 2)
    """Number of values of each atom feature, see `compute_features_2d`."""
    bond_feature_sizes: tuple[int, ...] | list[int] = (5, 6, 2)
    """Number of values of each bond feature."""
    batch_norm_eps: float = 1e-5


class BlendingConfig(PreTrainedConfig):
    """Blending module: self- and cross-attention over 2D and 3D features."""

    model_type = "mol_llama_blending"
    base_config_key = "blending_config"

    hidden_size: int = 512
    """Common width of the features, equal to the width of the wider encoder."""
    intermediate_size: int = 2048
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    layer_norm_eps: float = 1e-5


class MolLlamaConfig(PreTrainedConfig):
    """Complete model.

    `text_config` is a Llama configuration. Its vocabulary has two more tokens than the base model: a padding token and
    the molecule placeholder (`molecule_token_id`), which a prompt repeats `num_query_tokens` times for each molecule.
    """

    model_type = MODEL_TYPE
    sub_configs = {  # noqa: RUF012 - transformers requires a plain class attribute
        "unimol_config": UniMolConfig,
        "gin_config": GINConfig,
        "blending_config": BlendingConfig,
        "qformer_config": AutoConfig,
        "text_config": AutoConfig,
    }

    unimol_config: Any = None
    gin_config: Any = None
    blending_config: Any = None
    qformer_config: Any = None
    text_config: Any = None
    num_query_tokens: int = 8
    molecule_token_id: int = 128257
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.unimol_config = _build_subconfig(UniMolConfig, self.unimol_config)
        self.gin_config = _build_subconfig(GINConfig, self.gin_config)
        self.blending_config = _build_subconfig(BlendingConfig, self.blending_config)
        width = self.blending_config.hidden_size
        # The Q-Former is BLIP-2's without its text branch; its default width equals SciBERT's, as in the paper.
        qformer = CONFIG_MAPPING["blip_2_qformer"]
        self.qformer_config = _build_subconfig(qformer, self.qformer_config, encoder_hidden_size=width)
        self.text_config = _build_subconfig(CONFIG_MAPPING["llama"], self.text_config)
        super().__post_init__(**kwargs)


def _build_subconfig(kind: type[Any], value: dict[str, Any] | PreTrainedConfig | None, **defaults: Any) -> Any:
    """Build a part of the configuration from a dictionary or its defaults; return a finished one unchanged."""
    if value is None or isinstance(value, dict):
        return kind(**defaults | (value or {}))
    return value
