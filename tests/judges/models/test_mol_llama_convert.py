"""Checkpoints in Mol-LLaMA's own names, as ours, and what is wrong with them."""

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
OFFICIAL = {
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
"""Our names of some weights, one of each kind -> the official ones."""
OF_NO_USE = (
    "encoder.graph_encoder.moleculestm.graph_pred_linear.weight",
    "encoder.Qformer.bert.embeddings.position_ids",
    "encoder.Qformer.bert.embeddings.word_embeddings.weight",
    "encoder.Qformer.bert.encoder.layer.3.intermediate.dense.weight",
    "encoder.Qformer.cls.predictions.bias",
    "encoder.gtm_head.weight",
)


def tensor() -> Any:
    return torch.zeros(1)


@pytest.mark.parametrize("ours", OFFICIAL)
def test_names(ours: str) -> None:
    assert list(rename_weights([{OFFICIAL[ours]: tensor()}]).model) == [ours]
    assert list(rename_weights([{f"mol_llama.{OFFICIAL[ours]}": tensor()}]).model) == [
        ours
    ]  # as a training run writes it


def test_adapters_get_the_names_of_peft() -> None:
    name = f"{LLM}model.layers.0.self_attn.q_proj.lora_A.default.weight"
    converted = rename_weights([{name: tensor()}])
    assert not converted.model
    assert list(converted.adapter) == ["base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight"]


def test_a_part_alone_is_known_by_its_names() -> None:
    unimol = {"gbf.means.weight": tensor(), "embed_tokens.weight": tensor(), "lm_head.dense.weight": tensor()}
    assert set(rename_weights([unimol]).model) == {
        "model.unimol.kernels.means.weight",
        "model.unimol.embed_tokens.weight",
    }
    llama = {"model.embed_tokens.weight": tensor(), "lm_head.weight": tensor()}
    assert set(rename_weights([llama]).model) == {"model.language_model.embed_tokens.weight", "lm_head.weight"}


def test_what_is_of_no_use_is_passed_over_and_what_is_unknown_is_not() -> None:
    assert not rename_weights([{name: tensor() for name in OF_NO_USE}]).model
    with pytest.raises(UsageError, match=r"weight 'encoder\.novel\.weight': is none that Mol-LLaMA has"):
        rename_weights([{"encoder.novel.weight": tensor()}])


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint under official names, beside the tokenizer of its base."""
    folder = tmp_path_factory.mktemp("official")
    ours = tiny.write_tiny_model(folder / "ours")
    names = {**load_file(ours / "model.safetensors")}
    state = {_official(name): one for name, one in names.items()}
    for name, one in load_file(ours / "adapter" / "adapter_model.safetensors").items():
        whole = name.removeprefix("base_model.model.model.language_model.")
        state[f"{LLM}model.{whole.replace('.weight', '.default.weight')}"] = one
    save_file(state, folder / "model.safetensors")
    tiny.build_tiny_tokenizer().save_pretrained(folder / "base")
    MolLlamaForConditionalGeneration.from_pretrained(ours).config.save_pretrained(folder / "configuration")
    return folder


def _official(name: str) -> str:
    """The official name of one of ours, found by renaming candidates back."""
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


def test_a_checkpoint_converted_is_the_model_that_it_was(official: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    arguments = ["convert", str(official / "model.safetensors"), "--base", str(official / "base")]
    arguments += ["--config", str(official / "configuration"), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    ours, made = (load_file(folder / "model.safetensors") for folder in (official / "ours", tmp_path / "out"))
    assert ours.keys() == made.keys()
    assert all(torch.equal(ours[name], made[name]) for name in ours)
    files = [folder / "adapter" / "adapter_model.safetensors" for folder in (official / "ours", tmp_path / "out")]
    assert files[0].read_bytes() == files[1].read_bytes()
    model = MolLlamaForConditionalGeneration.from_pretrained(tmp_path / "out")
    PeftModel.from_pretrained(model, tmp_path / "out" / "adapter")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").padding_side == "left"


def test_a_weight_that_is_missing_or_of_another_shape_is_named(official: Path, tmp_path: Path) -> None:
    state = load_file(official / "model.safetensors")
    config = MolLlamaForConditionalGeneration.from_pretrained(official / "ours").config
    tokenizer = AutoTokenizer.from_pretrained(official / "base")
    without = {name: one for name, one in state.items() if name != "llm_proj.bias"}
    with pytest.raises(UsageError, match=r"lacks 1 weights, of which the first is 'model\.connector\.proj\.bias'"):
        convert_checkpoint([without], config, tokenizer, tmp_path)
    with pytest.raises(UsageError, match=r"'model\.connector\.proj\.bias': is of shape \(3,\)"):
        convert_checkpoint([state | {"llm_proj.bias": torch.zeros(3)}], config, tokenizer, tmp_path)
    adapter = next(name for name in state if ".lora_A." in name)
    with pytest.raises(UsageError, match="lacks 1 adapters"):
        convert_checkpoint([{k: v for k, v in state.items() if k != adapter}], config, tokenizer, tmp_path)


def test_a_later_file_is_put_in_the_place_of_an_earlier_one(official: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {"mol_llama.llm_proj.bias": torch.full((64,), 7.0)}}, tmp_path / "trained.ckpt")
    states = read_states([official / "model.safetensors", tmp_path / "trained.ckpt"])
    assert rename_weights(states).model["model.connector.proj.bias"].tolist() == [7.0] * 64


def test_a_file_that_holds_no_weights_is_one_line(
    official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    arguments = ["convert", str(tmp_path / "x.safetensors"), "--base", str(official / "base"), "--out", str(tmp_path)]
    assert main(arguments) == 2
    assert "cannot be read as a checkpoint" in capsys.readouterr().err


def test_a_judge_is_imported_from_the_command_line(official: Path, tmp_path: Path) -> None:
    judge = tiny.write_tiny_judge(tmp_path / "judge")
    arguments = ["import-judge", str(official / "ours"), str(judge), "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    made, theirs = load_file(tmp_path / "out" / "model.safetensors"), load_file(judge / "model.safetensors")
    assert torch.equal(made["model.language_model.norm.weight"], theirs["model.norm.weight"])
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
