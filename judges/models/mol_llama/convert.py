"""Conversion of original Mol-LLaMA checkpoints into a transformers model and a peft LoRA adapter.

The conversion is strict: a weight that is neither converted nor on the list of unused weights is an error, and so is a
missing one. A silently skipped weight would leave a part of the model random.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.models import BUNDLED_ADAPTER
from flex_judge.judges.models.mol_llama.configuration import MolLlamaConfig

if TYPE_CHECKING:
    from torch import Tensor

"""Subfolder of the model folder that holds the adapter."""
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_TRAINING = "mol_llama."
_UNIMOL = "encoder.graph_encoder.unimol."
_GIN = "encoder.graph_encoder.moleculestm."
_LLM = "llm.base_model.model."
_PREFIXES = {"gbf.means.weight": _UNIMOL, "molecule_node_model.gnns.0.eps": _GIN, "model.embed_tokens.weight": _LLM}
"""Weight that identifies a file with one part of the model -> prefix that its weight names lack."""
_RENAMES = tuple(
    (re.compile(pattern), new_name)
    for pattern, new_name in (
        (rf"{_UNIMOL}embed_tokens\.(.+)", r"model.unimol.embed_tokens.\1"),
        (rf"{_UNIMOL}encoder\.emb_layer_norm\.(.+)", r"model.unimol.embed_norm.\1"),
        (rf"{_UNIMOL}encoder\.final_layer_norm\.(.+)", r"model.unimol.norm.\1"),
        (rf"{_UNIMOL}encoder\.layers\.(\d+)\.self_attn_layer_norm\.(.+)", r"model.unimol.layers.\1.attention_norm.\2"),
        (rf"{_UNIMOL}encoder\.layers\.(\d+)\.self_attn\.in_proj\.(.+)", r"model.unimol.layers.\1.qkv.\2"),
        (rf"{_UNIMOL}encoder\.layers\.(\d+)\.self_attn\.out_proj\.(.+)", r"model.unimol.layers.\1.out_proj.\2"),
        (rf"{_UNIMOL}encoder\.layers\.(\d+)\.final_layer_norm\.(.+)", r"model.unimol.layers.\1.mlp_norm.\2"),
        (rf"{_UNIMOL}encoder\.layers\.(\d+)\.(fc[12])\.(.+)", r"model.unimol.layers.\1.\2.\3"),
        (rf"{_UNIMOL}gbf\.(means|stds|mul|bias)\.weight", r"model.unimol.kernels.\1.weight"),
        (rf"{_UNIMOL}gbf_proj\.linear1\.(.+)", r"model.unimol.bias_in.\1"),
        (rf"{_UNIMOL}gbf_proj\.linear2\.(.+)", r"model.unimol.bias_out.\1"),
        (rf"{_GIN}molecule_node_model\.atom_encoder\.atom_embedding_list\.(.+)", r"model.gin.atoms.tables.\1"),
        (
            rf"{_GIN}molecule_node_model\.gnns\.(\d+)\.bond_encoder\.bond_embedding_list\.(.+)",
            r"model.gin.layers.\1.bonds.tables.\2",
        ),
        (rf"{_GIN}molecule_node_model\.gnns\.(\d+)\.(eps|mlp\..+)", r"model.gin.layers.\1.\2"),
        (rf"{_GIN}molecule_node_model\.batch_norms\.(\d+)\.(.+)", r"model.gin.layers.\1.norm.\2"),
        (r"encoder\.ln_graph\.unimol\.(.+)", r"model.connector.blending.norm_3d.\1"),
        (r"encoder\.ln_graph\.moleculestm\.(.+)", r"model.connector.blending.norm_2d.\1"),
        (r"encoder\.blending_module\.mlp\.unimol\.0\.(.+)", r"model.connector.blending.proj_3d.\1"),
        (r"encoder\.blending_module\.mlp\.moleculestm\.0\.(.+)", r"model.connector.blending.proj_2d.\1"),
        (r"encoder\.blending_module\.cross_attn_blocks\.(.+)", r"model.connector.blending.blocks.\1"),
        (r"encoder\.query_tokens", r"model.connector.query_tokens"),
        (r"encoder\.Qformer\.bert\.embeddings\.LayerNorm\.(.+)", r"model.connector.qformer.layernorm.\1"),
        (
            r"encoder\.Qformer\.bert\.(encoder\.layer\.\d+\.(?:cross)?attention)\.self\.(.+)",
            r"model.connector.qformer.\1.attention.\2",
        ),
        (
            r"encoder\.Qformer\.bert\.(encoder\.layer\.\d+\.(?:(?:cross)?attention\.output|intermediate_query|output_query)\..+)",
            r"model.connector.qformer.\1",
        ),
        (r"llm_proj\.(.+)", r"model.connector.proj.\1"),
        (rf"{re.escape(_LLM)}lm_head\.(.+)", r"lm_head.\1"),
        (rf"{re.escape(_LLM)}model\.(.+)", r"model.language_model.\1"),
    )
)
_BLENDING_RENAMES = tuple(
    (re.compile(rf"(?<=\.){old_name}(?=\.)"), new_name)
    for old_name, new_name in (
        ("self_attn_block_2D", "self_2d"),
        ("self_attn_block_3D", "self_3d"),
        ("cross_attn_block_3Dto2D", "cross_2d"),
        ("cross_attn_block_2Dto3D", "cross_3d"),
        ("ln_q", "query_norm"),
        ("ln_k", "key_norm"),
        ("ln_v", "value_norm"),
        ("attn", "attention"),
        ("ln", "mlp_norm"),
        (r"mlp\.0", "fc1"),
        (r"mlp\.2", "fc2"),
    )
)
_LORA = re.compile(r"(.+)\.lora_([AB])\.default\.weight")
_UNUSED_WEIGHTS = re.compile(
    rf"{_GIN}graph_pred_linear\..+"  # an unused head
    r"|encoder\.Qformer\.bert\.embeddings\.(position_ids|(word|position)_embeddings\.weight)"  # the text branch
    r"|encoder\.Qformer\.cls\..+|encoder\.Qformer\.bert\.encoder\.layer\.\d+\.(intermediate|output)\..+"
    r"|encoder\.(graph_proj|text_proj|gtm_head)\..+"
    rf"|{_UNIMOL}(lm_head|pair2coord_proj|dist_head|classification_heads)\..+"  # pretraining heads
)


@dataclass
class ConvertedWeights:
    """Weights under the names of this implementation."""

    model: dict[str, Tensor] = field(default_factory=dict)
    adapter: dict[str, Tensor] = field(default_factory=dict)
    """LoRA matrices under the names of a peft adapter file."""


def rename_weights(states: Iterable[Mapping[str, Tensor]]) -> ConvertedWeights:
    """Rename the weights of original checkpoints; weights of later states override earlier ones.

    Args:
        states: weights of a complete checkpoint, a training run (names start with `mol_llama.`), the first training
            stage, one encoder, or a plain language model.

    Raises:
        UsageError: a weight name is unknown.
    """
    converted = ConvertedWeights()
    for state in states:
        prefix = next((prefix for name, prefix in _PREFIXES.items() if name in state), "")
        for name, tensor in state.items():
            full_name = prefix + name.removeprefix(_TRAINING)
            if _UNUSED_WEIGHTS.fullmatch(full_name):
                continue
            if lora := _LORA.fullmatch(full_name):
                converted.adapter[f"base_model.model.{_rename_weight(lora[1])}.lora_{lora[2]}.weight"] = tensor
            else:
                converted.model[_rename_weight(full_name.replace(".base_layer.", "."))] = tensor
    return converted


def _rename_weight(name: str) -> str:
    for pattern, template in _RENAMES:
        if match := pattern.fullmatch(name):
            new_name = match.expand(template)
            break
    else:
        raise UsageError(f"weight {name!r}: unknown to Mol-LLaMA; check that the file is one of its checkpoints")
    if ".blending.blocks." in new_name:
        for pattern, replacement in _BLENDING_RENAMES:
            new_name = pattern.sub(replacement, new_name)
    return new_name


def convert_checkpoint(
    states: Iterable[Mapping[str, Tensor]],
    config: MolLlamaConfig,
    tokenizer: Any,
    out: Path,
    *,
    rank: int = 8,
    alpha: int = 32,
) -> None:
    """Write a converted model and, if the checkpoint has LoRA adapters, `out/adapter`.

    Args:
        states: see `rename_weights`; together they must hold every weight.
        config: configuration of the converted model.
        tokenizer: tokenizer of the language model, with or without the two tokens that Mol-LLaMA adds; it is saved
            with the model.
        out: folder to write.
        rank: rank of the adapters.
        alpha: alpha of the adapters.

    Raises:
        UsageError: a weight is unknown, missing or of another shape.
    """
    import torch

    from flex_judge.judges.models.mol_llama.modeling import MolLlamaForConditionalGeneration
    from flex_judge.judges.models.mol_llama.tokens import prepare_tokenizer

    converted = rename_weights(states)
    with torch.device("meta"):
        model = MolLlamaForConditionalGeneration(config)
    _add_token_rows(converted.model, config.text_config.vocab_size)
    check_weights(converted.model, model.state_dict())
    model.load_state_dict(converted.model, assign=True)
    check_lora_weights(converted.adapter, model, rank)
    prepare_tokenizer(tokenizer, config).save_pretrained(out)
    model.save_pretrained(out)
    if converted.adapter:
        write_adapter(converted.adapter, out / BUNDLED_ADAPTER, rank, alpha)


def check_weights(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that weights have the expected names and shapes.

    Raises:
        UsageError: a weight is missing, unknown or of another shape.
    """
    if missing := sorted(expected.keys() - weights.keys()):
        raise UsageError(
            f"checkpoint: lacks {len(missing)} weights, the first is {missing[0]!r}; add the missing files"
        )
    if unknown := sorted(weights.keys() - expected.keys()):
        raise UsageError(
            f"checkpoint: has {len(unknown)} weights unknown to the model, the first is {unknown[0]!r}; check --config"
        )
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            raise UsageError(
                f"weight {name!r}: has shape {tuple(tensor.shape)}, the configuration expects "
                f"{tuple(expected[name].shape)}; check --config"
            )


def check_lora_weights(adapter: Mapping[str, Tensor], model: Any, rank: int) -> None:
    """Check that LoRA matrices are either absent or complete: all projections in all layers, with this rank.

    Raises:
        UsageError: a matrix is missing, unknown or of another shape.
    """
    if not adapter:
        return
    shapes = {}
    for name, module in model.model.language_model.named_modules(prefix="base_model.model.model.language_model"):
        if name.rpartition(".")[2] in TARGETS:
            shapes[f"{name}.lora_A.weight"] = (rank, module.in_features)
            shapes[f"{name}.lora_B.weight"] = (module.out_features, rank)
    if missing := sorted(shapes.keys() - adapter.keys()):
        raise UsageError(f"checkpoint: lacks {len(missing)} LoRA matrices, the first is {missing[0]!r}")
    for name, tensor in adapter.items():
        if tuple(tensor.shape) != shapes.get(name):
            raise UsageError(
                f"LoRA matrix {name!r}: has shape {tuple(tensor.shape)}, expected {shapes.get(name)}; check --rank"
            )


def write_adapter(adapter: Mapping[str, Tensor], folder: Path, rank: int, alpha: int) -> None:
    """Write LoRA matrices as a peft adapter."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(TARGETS), task_type="CAUSAL_LM")
    config.inference_mode = True
    config.save_pretrained(folder)
    save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, folder / "adapter_model.safetensors")


def _add_token_rows(weights: dict[str, Tensor], rows: int) -> None:
    """Extend the embedding and the head of a plain language model by zero rows, up to `rows`.

    Zeros are safe for both added tokens: the padding token is always masked, the molecule token is replaced by vectors
    of the molecule, and neither is ever generated.
    """
    import torch

    for name in ("model.language_model.embed_tokens.weight", "lm_head.weight"):
        tensor = weights.get(name)
        if tensor is not None and len(tensor) < rows:
            weights[name] = torch.cat([tensor, tensor.new_zeros(rows - len(tensor), tensor.shape[1])])


def read_states(paths: Sequence[Path]) -> list[dict[str, Tensor]]:
    """Read the weights of checkpoint files.

    Args:
        paths: .safetensors files, folders of these, or files saved by torch (their entry `state_dict` or `model`).

    Raises:
        UsageError: a file cannot be read or holds no weights.
    """
    files: list[Path] = []
    for path in paths:
        files += sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise UsageError(f"{', '.join(map(str, paths))}: no .safetensors files; name the checkpoint files")
    return [_read_state(file) for file in files]


def _read_state(file: Path) -> dict[str, Tensor]:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        # weights_only: checkpoints of strangers must not run code when they are unpickled.
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, ValueError) as e:
        raise UsageError(f"{file}: cannot be read as a checkpoint: {e}") from e
    for entry in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(entry), dict):
            state = state[entry]
    if not isinstance(state, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state.values()):
        raise UsageError(f"{file}: expected named weights, found {type(state).__name__}; name a checkpoint file")
    return state
