"""Parity of Mol-LLaMA with reference values of the original code, stage by stage; skipped without these values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lazy import lazy
from repository import find_shared

torch = lazy("torch")
load_file = lazy("safetensors.torch", "load_file")
AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM = lazy(
    "transformers", "AutoModelForCausalLM", "AutoTokenizer", "LlamaConfig", "LlamaForCausalLM"
)
MolLlamaConfig, MolLlamaForConditionalGeneration, import_judge = lazy(
    "flex_judge.judges.models.mol_llama", "MolLlamaConfig", "MolLlamaForConditionalGeneration", "import_judge"
)
convert_checkpoint, rename_weights = lazy(
    "flex_judge.judges.models.mol_llama.convert", "convert_checkpoint", "rename_weights"
)
compute_features_2d, compute_features_3d, parse_smiles = lazy(
    "flex_judge.judges.models.mol_llama.features", "compute_features_2d", "compute_features_3d", "parse_smiles"
)
GRAPHS = lazy("flex_judge.judges.models.mol_llama.graphs", "GRAPHS")
expand_placeholders = lazy("flex_judge.judges.models.mol_llama.processor", "expand_placeholders")

GOLDEN = find_shared("golden/mol_llama")
if not GOLDEN.is_dir():
    pytest.skip("no reference values", allow_module_level=True)
TOLERANCE = 1e-5
MOLECULES = {entry["name"]: entry for entry in json.loads((GOLDEN / "molecules.json").read_text())}
CASES = {entry["name"]: entry for entry in json.loads((GOLDEN / "prompts.json").read_text())["cases"]}
REFERENCE = json.loads((GOLDEN / "config.json").read_text())


def load_tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def build_config() -> MolLlamaConfig:
    unimol, gin, blending, qformer, text = (
        REFERENCE[name] for name in ("unimol", "gin", "blending", "qformer", "language_model")
    )

    def get_sizes(part: dict[str, Any], layers: str = "layers") -> dict[str, Any]:
        return {
            "hidden_size": part["hidden_size"],
            "num_hidden_layers": part[layers],
            "num_attention_heads": part["attention_heads"],
            "intermediate_size": part["feed_forward_size"],
        }

    return MolLlamaConfig(
        unimol_config=get_sizes(unimol) | {"num_kernels": unimol["gaussian_kernels"]},
        gin_config={"hidden_size": gin["hidden_size"], "num_hidden_layers": gin["layers"]},
        blending_config=get_sizes(blending, "blocks"),
        qformer_config=get_sizes(qformer),
        text_config=build_llama_settings(text["vocab_size"]),
        molecule_token_id=REFERENCE["tokens"]["<mol>"],
    )


def build_llama_settings(rows: int) -> dict[str, Any]:
    text = REFERENCE["language_model"]
    other_names = ("model_type", "base_vocab_size", "rope_theta", "rope_scaling", "vocab_size")
    settings = {name: value for name, value in text.items() if name not in other_names}
    return settings | {"vocab_size": rows, "rope_parameters": text["rope_scaling"] | {"rope_theta": text["rope_theta"]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convert the reference checkpoint."""
    path = tmp_path_factory.mktemp("golden") / "model"
    convert_checkpoint(
        [load_tensors("state_dict")], build_config(), AutoTokenizer.from_pretrained(GOLDEN / "tokenizer"), path
    )
    return path


def load_adapted(folder: Path) -> Any:
    from peft import PeftModel

    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).eval()


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return load_adapted(folder).requires_grad_(False)


@pytest.fixture(scope="module")
def base(model: Any) -> Any:
    return model.get_base_model().model


def split_molecules(
    nodes: torch.Tensor, edges: torch.Tensor, bonds: torch.Tensor, owners: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Split a joined graph into molecules: atoms, edges and bonds, padded with -1.

    `owners` holds the molecule of each atom.
    """
    count = int(owners.max()) + 1
    atom_counts, edge_counts = (
        torch.bincount(owners, minlength=count),
        torch.bincount(owners[edges[0]], minlength=count),
    )
    starts = atom_counts.cumsum(0) - atom_counts
    shapes = ((int(atom_counts.max()), 9), (int(edge_counts.max()), 2), (int(edge_counts.max()), 3))
    padded = [torch.full((count, *shape), -1) for shape in shapes]
    for k in range(count):
        is_own = owners[edges[0]] == k
        for tensor, rows in zip(
            padded, (nodes[owners == k], edges[:, is_own].T - starts[k], bonds[is_own]), strict=True
        ):
            tensor[k, : len(rows)] = rows
    return tuple(padded)


def build_graphs(stored: dict[str, torch.Tensor], counts: list[int]) -> dict[str, torch.Tensor]:
    """Arrange the graphs of a file by prompt; `counts` holds the number of molecules of each prompt."""
    joined = split_molecules(
        *(stored[f"graph.{name}"] for name in ("node_feat", "edge_index", "edge_attr", "node_batch"))
    )
    flat = (stored["graph.src_tokens"], stored["graph.src_distance"], *joined)
    graphs = {}
    for name, tensor in zip(GRAPHS, flat, strict=True):
        padding = 0 if name.startswith("atom_") and name != "atom_features" else -1
        placed = torch.full((len(counts), max(counts), *tensor.shape[1:]), padding, dtype=tensor.dtype)
        rows = iter(tensor)
        for i, count in enumerate(counts):
            for k in range(count):
                placed[i, k] = next(rows)
        graphs[name] = placed
    return graphs


def load_prompts(name: str, counts: list[int]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Load a file; return its tensors and its prompts as model inputs."""
    stored = load_tensors(name)
    inputs = {key: stored[key] for key in ("input_ids", "attention_mask")}
    return stored, inputs | build_graphs(stored, counts)


@pytest.mark.parametrize("name", MOLECULES)
def test_features(name: str) -> None:
    stored, molecule = load_tensors("featurisation"), MOLECULES[name]
    tokens, distances = compute_features_3d(molecule["symbols"], np.array(molecule["coordinates"]))
    atoms, edges, bonds = compute_features_2d(parse_smiles(molecule["smiles"], name))
    assert np.array_equal(tokens, stored[f"{name}.src_tokens"])
    assert np.array_equal(distances, stored[f"{name}.src_distance"])
    assert np.array_equal(atoms, stored[f"{name}.node_feat"])
    assert np.array_equal(edges.T, stored[f"{name}.edge_index"])
    assert np.array_equal(bonds, stored[f"{name}.edge_attr"])


def test_3d_encoder(base: Any) -> None:
    stored, encoder = load_tensors("unimol"), base.unimol
    tokens, distances = stored["src_tokens"], stored["src_distance"]
    hidden, real = encoder(tokens, distances)
    assert torch.equal(real, stored["mask"])
    assert_close(hidden[real], stored["output"][real])
    both = real[:, :, None] & real[:, None, :]
    types = stored["src_edge_type"]
    assert_close(encoder.kernels(distances, types)[both], stored["gaussian"][both])
    bias = encoder.compute_pair_bias(tokens, distances).permute(0, 2, 3, 1)
    assert_close(bias[both], stored["pair_bias"].permute(0, 2, 3, 1)[both])
    hidden = encoder.embed_norm(encoder.embed_tokens(tokens))
    assert_close(hidden[real], stored["embedded"][real])
    hidden = hidden * real.unsqueeze(-1)
    bias = encoder.compute_pair_bias(tokens, distances).masked_fill(~real[:, None, None], float("-inf"))
    for i, layer in enumerate(encoder.layers):
        hidden, bias = layer(hidden, bias)
        assert_close(hidden[real], stored[f"layer{i}.hidden"][real])
        assert_close(bias.permute(0, 2, 3, 1)[both], stored[f"layer{i}.pair"].permute(0, 2, 3, 1)[both])


def test_2d_encoder(base: Any) -> None:
    stored = load_tensors("gin")
    output, real = base.gin(
        *split_molecules(*(stored[n] for n in ("node_feat", "edge_index", "edge_attr", "node_batch")))
    )
    assert torch.equal(real, stored["mask"])
    assert_close(output, stored["output"])
    assert_close(base.gin.atoms(stored["node_feat"]), stored["atom_embedding"])


def test_blending(base: Any) -> None:
    stored, blending = load_tensors("blending"), base.connector.blending
    inputs = [stored[name] for name in ("features_2d", "features_3d", "mask_2d", "mask_3d")]
    output, mask = blending(*inputs)
    assert torch.equal(mask, stored["mask"])
    assert_close(output, stored["output"])
    assert not output[~mask].any()
    features_2d, features_3d = (
        norm(side) for norm, side in ((blending.norm_2d, inputs[0]), (blending.norm_3d, inputs[1]))
    )
    assert_close(features_2d, stored["normed_2d"])
    assert_close(features_3d, stored["normed_3d"])
    features_2d, features_3d = (
        proj(side) for proj, side in ((blending.proj_2d, features_2d), (blending.proj_3d, features_3d))
    )
    assert_close(features_2d, stored["projected_2d"])
    assert_close(features_3d, stored["projected_3d"])
    features_2d, features_3d = features_2d * inputs[2].unsqueeze(-1), features_3d * inputs[3].unsqueeze(-1)
    for i, block in enumerate(blending.blocks):
        features_2d, features_3d = block(features_2d, features_3d, *inputs[2:])
        assert_close(features_2d[inputs[2]], stored[f"block{i}.2d"][inputs[2]])
        assert_close(features_3d[inputs[3]], stored[f"block{i}.3d"][inputs[3]])


def test_qformer_and_projector(base: Any) -> None:
    stored, connector = load_tensors("qformer"), base.connector
    output = connector.qformer(
        connector.query_tokens.expand(8, -1, -1),
        encoder_hidden_states=stored["encoder_hidden_states"],
        encoder_attention_mask=stored["encoder_mask"].long(),
        output_hidden_states=True,
    )
    assert_close(output.last_hidden_state, stored["output"])
    for i, hidden in enumerate(output.hidden_states):
        assert_close(hidden, stored[f"hidden{i}"])
    stored = load_tensors("projector")
    assert_close(connector.proj(stored["input"]), stored["output"])


@pytest.mark.parametrize("name", CASES)
def test_prompts(name: str, folder: Path) -> None:
    from flex_judge.judges.protocol.rendering import Renderer
    from flex_judge.judges.protocol.turns import Span, Turn

    case, stored = CASES[name], load_tensors("prompts")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = case["messages"][-1]["role"] == "user"
    text = tokenizer.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=ends)
    text += "<think>" * case["think"]
    expanded = expand_placeholders(text, len(case["molecules"]), 8)
    ids = tokenizer(expanded, add_special_tokens=False)["input_ids"]
    assert ids == stored[f"{name}.input_ids"].tolist()
    assert expand_placeholders(expanded, len(case["molecules"]), 8) == expanded
    if ends:  # as the judge renders it, part by part
        turns = [Turn(message["role"], (Span(message["content"], trusted=True),)) for message in case["messages"]]
        plain = Renderer(tokenizer).render(turns, prefill="<think>" * case["think"])
        assert [i for i in plain.token_ids for _ in range(8 if i == REFERENCE["tokens"]["<mol>"] else 1)] == ids


@pytest.mark.parametrize(
    ("name", "counts"), [("full_model", [1, 1]), ("full_model_multi", [2, 1]), ("full_model_sft", [1, 1])]
)
def test_logits(name: str, counts: list[int], model: Any) -> None:
    stored, inputs = load_prompts(name, counts)
    real = inputs["attention_mask"].bool()
    assert_close(model(**inputs).logits[real], stored["logits"][real])


def test_greedy_decoding(model: Any) -> None:
    stored, inputs = load_prompts("full_model", [1, 1])
    ends = REFERENCE["generation"]["stop_token_ids"]
    for stop, name in (([], "generated_ids"), ([int(stored["stop_token_id"])], "generated_ids_with_stop")):
        settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": [*ends, *stop]}
        generated = model.generate(**inputs, **settings, pad_token_id=REFERENCE["generation"]["pad_token_id"])
        generated = generated[:, inputs["input_ids"].shape[1] :]
        expected = stored[name][:, : generated.shape[1]]
        assert torch.equal(generated, expected)
        assert (stored[name][:, generated.shape[1] :] == REFERENCE["generation"]["pad_token_id"]).all()


def convert_names(names: list[str]) -> dict[str, str]:
    """Map original names of trained tensors to parameter names of an adapted model."""
    parameters = {}
    for name in names:
        converted = rename_weights([{name: torch.zeros(1)}])
        if converted.model:
            parameters[name] = f"base_model.model.{next(iter(converted.model))}"
        else:
            parameters[name] = next(iter(converted.adapter)).replace(".weight", ".default.weight")
    return parameters


def compute_gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def load_trainable(folder: Path) -> Any:
    """Load the model with adapters and connector trainable, as in the paper."""
    model = load_adapted(folder)
    model.get_base_model().model.connector.requires_grad_(True)
    return model


def check_norms(gradients: dict[str, torch.Tensor], norms: dict[str, float]) -> None:
    names = convert_names(list(norms))
    assert set(gradients) == set(names.values())
    for name, norm in norms.items():
        assert float(gradients[names[name]].norm()) == pytest.approx(norm, abs=TOLERANCE), name


def test_supervised_loss_and_its_gradients(folder: Path) -> None:
    model = load_trainable(folder)
    stored, inputs = load_prompts("full_model_sft", [1, 1])
    loss = model(**inputs, labels=stored["labels"]).loss
    assert_close(loss, stored["loss"])
    gradients = compute_gradients(model, loss)
    check_norms(gradients, json.loads((GOLDEN / "sft_gradients.json").read_text())["gradient_l2_norms"])
    names = convert_names([key.removeprefix("grad.") for key in stored if key.startswith("grad.")])
    for original_name, name in names.items():
        assert_close(gradients[name], stored[f"grad.{original_name}"])


def test_merged_adapters(folder: Path) -> None:
    merged = load_adapted(folder).merge_and_unload()
    state = merged.state_dict()
    for name, tensor in rename_weights([load_tensors("merged_llama")]).model.items():
        assert_close(state[name], tensor)
    _, inputs = load_prompts("full_model", [1, 1])
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        assert_close(merged(**inputs).logits[real], load_tensors("merged")["logits"][real])


def test_imported_judge_matches_the_reference(folder: Path) -> None:
    judge = LlamaForCausalLM(LlamaConfig(**build_llama_settings(REFERENCE["language_model"]["base_vocab_size"])))
    judge.load_state_dict(load_tensors("judge_llama"))
    model = import_judge(load_adapted(folder), judge)
    stored, (_, inputs) = load_tensors("judge_import"), load_prompts("full_model", [1, 1])
    real = inputs["attention_mask"].bool()
    with torch.no_grad():
        logits = model(**inputs).logits[real]
        assert_close(logits, stored["logits_own_added_rows"][real])
        assert_close(logits[:, :-2], stored["logits_official"][real][:, :-2])
        generated = model.generate(**inputs, max_new_tokens=12, do_sample=False, eos_token_id=324, pad_token_id=325)
    assert torch.equal(generated[:, inputs["input_ids"].shape[1] :], stored["generated_ids_own_added_rows"])


def test_preference_loss_and_its_gradients(folder: Path) -> None:
    settings = json.loads((GOLDEN / "dpo.json").read_text())
    stored, inputs = load_prompts("dpo", [1, 1, 1, 1])
    policy = load_trainable(folder)
    trained = load_tensors("dpo_policy_trainable")
    names = convert_names([name.removeprefix("mol_llama.") for name in trained])
    parameters = dict(policy.named_parameters())
    with torch.no_grad():
        for name, tensor in trained.items():
            parameters[names[name.removeprefix("mol_llama.")]].copy_(tensor)
    labels = stored["labels"][:, 1:]

    def sum_logprobs(model: Any) -> torch.Tensor:
        logps = model(**inputs).logits[:, :-1].double().log_softmax(-1)
        picked = logps.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1) * (labels != -100)
        return picked.sum(1)

    with torch.no_grad():
        reference = sum_logprobs(load_adapted(folder))
    trained_logprobs = sum_logprobs(policy)
    for which, rows in (("rejected", slice(0, 2)), ("chosen", slice(2, 4))):
        assert_close(trained_logprobs[rows], stored[f"policy_{which}_logps"])
        assert_close(reference[rows], stored[f"reference_{which}_logps"])
    rewards = settings["beta"] * (trained_logprobs - reference)
    loss = -torch.nn.functional.logsigmoid(rewards[2:] - rewards[:2]).mean()
    assert_close(loss, stored["loss"])
    check_norms(compute_gradients(policy, loss), settings["gradient_l2_norms"])


def test_converted_model_loads_with_auto_classes(folder: Path) -> None:
    assert isinstance(AutoModelForCausalLM.from_pretrained(folder), MolLlamaForConditionalGeneration)
