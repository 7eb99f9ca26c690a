"""Conversion of original Mol-LLaMA checkpoints, and errors for incomplete or unknown ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mol_llama as tiny
import pytest
from lazy import lazy

from flex_judge.judges.errors import UsageError

torch = lazy("torch")
load_file, save_file = lazy("safetensors.torch", "load_file", "save_file")
AutoTokenizer = lazy("transformers", "AutoTokenizer")
MolLlamaForConditionalGeneration = lazy("flex_judge.judges.models.mol_llama", "MolLlamaForConditionalGeneration")
main = lazy("flex_judge.judges.models.mol_llama.__main__", "main")
convert_checkpoint, read_states, rename_weights = lazy(
    "flex_judge.judges.models.mol_llama.convert", "convert_checkpoint", "read_states", "rename_weights"
)

UNIMOL, GIN = "encoder.graph_encoder.unimol.", "encoder.graph_encoder.moleculestm.molecule_node_model."
LLM = "llm.base_model.model."
ORIGINAL_NAMES = {
    "model.unimol.embed_tokens.weight": f"{UNIMOL}embed_tokens.weight",
    "model.unimol.layers.1.qkv.bias": f"{UNIMOL}encoder.layers.1.self_attn.in_proj.bias",
    "model.unimol.layers.0.mlp_norm.weight": f"{UNIMOL}encoder.layers.0.final_layer_norm.weight",
    "model.unimol.norm.weight": f"{UNIMOL}encoder.final_layer_norm.weight",
    "model.unimol.kernels.means.weight": f"{UNIMOL}gbf.means.weight",
    "model.unimol.bias_out.weight": f"{UNIMOL}gbf_proj.linear2.weight",
    "model.gin.atoms.tables.3.weight": f"{GIN}atom_encoder.atom_embedding_list.3.weight",
    "model.gin.layers.1.bonds.tables.2.weight": f"{GIN}gnns.1.bond_encoder.bond_embedding_list.2.weight",
    "model.gin.layers.0.eps": f"{GIN}gnns.0.eps",
    "model.gin.layers.0.mlp.1.running_var": f"{GIN}gnns.0.mlp.1.running_var",
    "model.gin.layers.1.norm.num_batches_tracked": f"{GIN}batch_norms.1.num_batches_tracked",
    "model.connector.blending.norm_3d.weight": "encoder.ln_graph.unimol.weight",
    "model.connector.blending.proj_2d.bias": "encoder.blending_module.mlp.moleculestm.0.bias",
    "model.connector.blending.blocks.0.cross_2d.attention.in_proj_weight": (
        "encoder.blending_module.cross_attn_blocks.0.cross_attn_block_3Dto2D.attn.in_proj_weight"
    ),
    "model.connector.blending.blocks.1.self_3d.mlp_norm.bias": (
        "encoder.blending_module.cross_attn_blocks.1.self_attn_block_3D.ln.bias"
    ),
    "model.connector.blending.blocks.1.cross_3d.fc2.weight": (
        "encoder.blending_module.cross_attn_blocks.1.cross_attn_block_2Dto3D.mlp.2.weight"
    ),
    "model.connector.query_tokens": "encoder.query_tokens",
    "model.connector.qformer.layernorm.weight": "encoder.Qformer.bert.embeddings.LayerNorm.weight",
    "model.connector.qformer.encoder.layer.0.crossattention.attention.key.weight": (
        "encoder.Qformer.bert.encoder.layer.0.crossattention.self.key.weight"
    ),
    "model.connector.qformer.encoder.layer.1.output_query.LayerNorm.bias": (
        "encoder.Qformer.bert.encoder.layer.1.output_query.LayerNorm.bias"
    ),
    "model.connector.proj.weight": "llm_proj.weight",
    "model.language_model.layers.0.mlp.up_proj.weight": f"{LLM}model.layers.0.mlp.up_proj.base_layer.weight",
    "model.language_model.norm.weight": f"{LLM}model.norm.weight",
    "lm_head.weight": f"{LLM}lm_head.weight",
}
"""Converted names of some weights, one of each kind -> original names."""
UNUSED = (
    "encoder.graph_encoder.moleculestm.graph_pred_linear.weight",
    "encoder.Qformer.bert.embeddings.position_ids",
    "encoder.Qformer.bert.embeddings.word_embeddings.weight",
    "encoder.Qformer.bert.encoder.layer.3.intermediate.dense.weight",
    "encoder.Qformer.cls.predictions.bias",
    "encoder.gtm_head.weight",
)


def make_tensor() -> Any:
    return torch.zeros(1)


@pytest.mark.parametrize("name", ORIGINAL_NAMES)
def test_weights_are_renamed(name: str) -> None:
    assert list(rename_weights([{ORIGINAL_NAMES[name]: make_tensor()}]).model) == [name]
    training_state = {f"mol_llama.{ORIGINAL_NAMES[name]}": make_tensor()}  # the form that training runs save
    assert list(rename_weights([training_state]).model) == [name]


def test_lora_matrices_get_peft_names() -> None:
    name = f"{LLM}model.layers.0.self_attn.q_proj.lora_A.default.weight"
    converted = rename_weights([{name: make_tensor()}])
    assert not converted.model
    assert list(converted.adapter) == ["base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"]


def test_files_of_single_parts_are_recognised() -> None:
    unimol = {
        "gbf.means.weight": make_tensor(),
        "embed_tokens.weight": make_tensor(),
        "lm_head.dense.weight": make_tensor(),
    }
    assert set(rename_weights([unimol]).model) == {
        "model.unimol.kernels.means.weight",
        "model.unimol.embed_tokens.weight",
    }
    llama = {"model.embed_tokens.weight": make_tensor(), "lm_head.weight": make_tensor()}
    assert set(rename_weights([llama]).model) == {"model.language_model.embed_tokens.weight", "lm_head.weight"}


def test_unused_weights_are_skipped_and_unknown_ones_rejected() -> None:
    assert not rename_weights([{name: make_tensor() for name in UNUSED}]).model
    with pytest.raises(UsageError, match=r"weight 'encoder\.novel\.weight': unknown to Mol-LLaMA"):
        rename_weights([{"encoder.novel.weight": make_tensor()}])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny checkpoint under original names, its converted form, and the tokenizer of its base model."""
    folder = tmp_path_factory.mktemp("original")
    converted = tiny.write_tiny_model(folder / "converted")
    names = {**load_file(converted / "model.safetensors")}
    state = {_get_original_name(name): tensor for name, tensor in names.items()}
    for name, tensor in load_file(converted / "adapter" / "adapter_model.safetensors").items():
        module = name.removeprefix("base_model.model.model.language_model.")
        state[f"{LLM}model.{module.replace('.weight', '.default.weight')}"] = tensor
    save_file(state, folder / "model.safetensors")
    tiny.build_tiny_tokenizer().save_pretrained(folder / "base")
    MolLlamaForConditionalGeneration.from_pretrained(converted).config.save_pretrained(folder / "configuration")
    return folder


def _get_original_name(name: str) -> str:
    """Return the original name of a converted weight: the inverse of the conversion, written independently."""
    for old, new in (
        ("model.unimol.kernels.", f"{UNIMOL}gbf."),
        ("model.unimol.bias_in.", f"{UNIMOL}gbf_proj.linear1."),
        ("model.unimol.bias_out.", f"{UNIMOL}gbf_proj.linear2."),
        ("model.unimol.embed_tokens.", f"{UNIMOL}embed_tokens."),
        ("model.unimol.embed_norm.", f"{UNIMOL}encoder.emb_layer_norm."),
        ("model.unimol.norm.", f"{UNIMOL}encoder.final_layer_norm."),
        ("model.unimol.", f"{UNIMOL}encoder."),
        ("model.gin.atoms.tables.", f"{GIN}atom_encoder.atom_embedding_list."),
        ("model.gin.layers.", f"{GIN}gnns."),
        ("model.connector.blending.norm_3d.", "encoder.ln_graph.unimol."),
        ("model.connector.blending.norm_2d.", "encoder.ln_graph.moleculestm."),
        ("model.connector.blending.proj_3d.", "encoder.blending_module.mlp.unimol.0."),
        ("model.connector.blending.proj_2d.", "encoder.blending_module.mlp.moleculestm.0."),
        ("model.connector.blending.blocks.", "encoder.blending_module.cross_attn_blocks."),
        ("model.connector.qformer.layernorm.", "encoder.Qformer.bert.embeddings.LayerNorm."),
        ("model.connector.qformer.", "encoder.Qformer.bert."),
        ("model.connector.query_tokens", "encoder.query_tokens"),
        ("model.connector.proj.", "llm_proj."),
        ("model.language_model.", f"{LLM}model."),
        ("lm_head.", f"{LLM}lm_head."),
    ):
        if name.startswith(old):
            name = new + name.removeprefix(old)
            break
    for old, new in (
        (".attention_norm.", ".self_attn_layer_norm."),
        (".qkv.", ".self_attn.in_proj."),
        (".bonds.tables.", ".bond_encoder.bond_embedding_list."),
        (".self_2d.", ".self_attn_block_2D."),
        (".self_3d.", ".self_attn_block_3D."),
        (".cross_2d.", ".cross_attn_block_3Dto2D."),
        (".cross_3d.", ".cross_attn_block_2Dto3D."),
        (".query_norm.", ".ln_q."),
        (".key_norm.", ".ln_k."),
        (".value_norm.", ".ln_v."),
    ):
        name = name.replace(old, new)
    if name.startswith(UNIMOL):
        name = name.replace(".mlp_norm.", ".final_layer_norm.")
        name = name.replace(".out_proj.", ".self_attn.out_proj.")
    if ".cross_attn_blocks." in name:
        name = name.replace(".attention.", ".attn.").replace(".mlp_norm.", ".ln.")
        name = name.replace(".fc1.", ".mlp.0.").replace(".fc2.", ".mlp.2.")
    if ".Qformer." in name:
        name = name.replace("attention.attention.", "attention.self.")
    if name.startswith(GIN) and ".norm." in name:
        name = name.replace("gnns.", "batch_norms.").replace(".norm.", ".")
    if name.startswith(LLM) and name.rpartition(".")[0].endswith("_proj"):
        name = name.replace(".weight", ".base_layer.weight")
    return name


def test_converted_checkpoint_equals_the_original_model(original: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    arguments = ["convert", str(original / "model.safetensors"), "--base", str(original / "base")]
    arguments += ["--config", str(original / "configuration"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    expected, converted = (
        load_file(folder / "model.safetensors") for folder in (original / "converted", tmp_path / "out")
    )
    assert expected.keys() == converted.keys()
    assert all(torch.equal(expected[name], converted[name]) for name in expected)
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in (original / "converted", tmp_path / "out")]
    assert files[0].read_bytes() == files[1].read_bytes()
    model = MolLlamaForConditionalGeneration.from_pretrained(tmp_path / "out")
    PeftModel.from_pretrained(model, tmp_path / "out" / "adapter")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").padding_side == "left"


def test_missing_or_misshaped_weight_is_named(original: Path, tmp_path: Path) -> None:
    state = load_file(original / "model.safetensors")
    config = MolLlamaForConditionalGeneration.from_pretrained(original / "converted").config
    tokenizer = AutoTokenizer.from_pretrained(original / "base")
    without = {name: tensor for name, tensor in state.items() if name != "llm_proj.bias"}
    with pytest.raises(UsageError, match=r"lacks 1 weights, the first is 'model\.connector\.proj\.bias'"):
        convert_checkpoint([without], config, tokenizer, tmp_path)
    with pytest.raises(UsageError, match=r"'model\.connector\.proj\.bias': has shape \(3,\)"):
        convert_checkpoint([state | {"llm_proj.bias": torch.zeros(3)}], config, tokenizer, tmp_path)
    adapter = next(name for name in state if ".lora_A." in name)
    with pytest.raises(UsageError, match="lacks 1 LoRA matrices"):
        convert_checkpoint([{k: v for k, v in state.items() if k != adapter}], config, tokenizer, tmp_path)


def test_later_files_override_earlier_ones(original: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {"mol_llama.llm_proj.bias": torch.full((64,), 7.0)}}, tmp_path / "trained.ckpt")
    states = read_states([original / "model.safetensors", tmp_path / "trained.ckpt"])
    assert rename_weights(states).model["model.connector.proj.bias"].tolist() == [7.0] * 64


def test_file_without_weights_gives_a_one_line_error(
    original: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    arguments = ["convert", str(tmp_path / "x.safetensors"), "--base", str(original / "base"), "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "cannot be read as a checkpoint" in capsys.readouterr().err


def test_judge_is_imported_from_the_command_line(original: Path, tmp_path: Path) -> None:
    judge = tiny.write_tiny_judge(tmp_path / "judge")
    arguments = ["import-judge", str(original / "converted"), str(judge), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    combined, judge_weights = load_file(tmp_path / "out" / "model.safetensors"), load_file(judge / "model.safetensors")
    assert torch.equal(combined["model.language_model.norm.weight"], judge_weights["model.norm.weight"])
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
