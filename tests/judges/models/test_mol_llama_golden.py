"""Parity of Mol-LLaMA with reference values of its original, stage by stage; skipped where they are not at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lazy import lazy
from repository import SHARED

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

GOLDEN = SHARED / "golden" / "mol_llama"
if not GOLDEN.is_dir():
    pytest.skip("the reference values are not here", allow_module_level=True)
BAR = 1e-5
MOLECULES = {one["name"]: one for one in json.loads((GOLDEN / "molecules.json").read_text())}
CASES = {one["name"]: one for one in json.loads((GOLDEN / "prompts.json").read_text())["cases"]}
REFERENCE = json.loads((GOLDEN / "config.json").read_text())


def tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(GOLDEN / f"{name}.safetensors")


def close(ours: torch.Tensor, theirs: torch.Tensor, bar: float = BAR) -> None:
    torch.testing.assert_close(ours, theirs, atol=bar, rtol=0)


def configuration() -> MolLlamaConfig:
    unimol, gin, blending, qformer, text = (
        REFERENCE[name] for name in ("unimol", "gin", "blending", "qformer", "language_model")
    )

    def sizes(of: dict[str, Any], layers: str = "layers") -> dict[str, Any]:
        return {
            "hidden_size": of["hidden_size"],
            "num_hidden_layers": of[layers],
            "num_attention_heads": of["attention_heads"],
            "intermediate_size": of["feed_forward_size"],
        }

    return MolLlamaConfig(
        unimol_config=sizes(unimol) | {"num_kernels": unimol["gaussian_kernels"]},
        gin_config={"hidden_size": gin["hidden_size"], "num_hidden_layers": gin["layers"]},
        blending_config=sizes(blending, "blocks"),
        qformer_config=sizes(qformer),
        text_config=llama(text["vocab_size"]),
        molecule_token_id=REFERENCE["tokens"]["<mol>"],
    )


def llama(rows: int) -> dict[str, Any]:
    text = REFERENCE["language_model"]
    left_out = ("model_type", "base_vocab_size", "rope_theta", "rope_scaling", "vocab_size")
    kept = {name: value for name, value in text.items() if name not in left_out}
    return kept | {"vocab_size": rows, "rope_parameters": text["rope_scaling"] | {"rope_theta": text["rope_theta"]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted checkpoint."""
    path = tmp_path_factory.mktemp("golden") / "model"
    convert_checkpoint(
        [tensors("state_dict")], configuration(), AutoTokenizer.from_pretrained(GOLDEN / "tokenizer"), path
    )
    return path


def adapted(folder: Path) -> Any:
    from peft import PeftModel

    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True).eval()


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return adapted(folder).requires_grad_(False)


@pytest.fixture(scope="module")
def base(model: Any) -> Any:
    return model.get_base_model().model


def molecules(
    nodes: torch.Tensor, edges: torch.Tensor, bonds: torch.Tensor, of: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """A joined graph by molecules: atoms, edges and bonds, padded with -1."""
    count = int(of.max()) + 1
    atoms_of, edges_of = torch.bincount(of, minlength=count), torch.bincount(of[edges[0]], minlength=count)
    starts = atoms_of.cumsum(0) - atoms_of
    shapes = ((int(atoms_of.max()), 9), (int(edges_of.max()), 2), (int(edges_of.max()), 3))
    padded = [torch.full((count, *shape), -1) for shape in shapes]
    for k in range(count):
        own = of[edges[0]] == k
        for tensor, rows in zip(padded, (nodes[of == k], edges[:, own].T - starts[k], bonds[own]), strict=True):
            tensor[k, : len(rows)] = rows
    return tuple(padded)


def graphs(stored: dict[str, torch.Tensor], counts: list[int]) -> dict[str, torch.Tensor]:
    """The graphs of a file by prompts, of which each has so many molecules."""
    joined = molecules(*(stored[f"graph.{name}"] for name in ("node_feat", "edge_index", "edge_attr", "node_batch")))
    flat = (stored["graph.src_tokens"], stored["graph.src_distance"], *joined)
    found = {}
    for name, tensor in zip(GRAPHS, flat, strict=True):
        nothing = 0 if name.startswith("atom_") and name != "atom_features" else -1
        placed = torch.full((len(counts), max(counts), *tensor.shape[1:]), nothing, dtype=tensor.dtype)
        rows = iter(tensor)
        for i, count in enumerate(counts):
            for k in range(count):
                placed[i, k] = next(rows)
        found[name] = placed
    return found


def asked(name: str, counts: list[int]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What a file stores, and its prompts as the model takes them."""
    stored = tensors(name)
    given = {key: stored[key] for key in ("input_ids", "attention_mask")}
    return stored, given | graphs(stored, counts)


@pytest.mark.parametrize("name", MOLECULES)
def test_features(name: str) -> None:
    stored, one = tensors("featurisation"), MOLECULES[name]
    tokens, distances = compute_features_3d(one["symbols"], np.array(one["coordinates"]))
    atoms, edges, bonds = compute_features_2d(parse_smiles(one["smiles"], name))
    assert np.array_equal(tokens, stored[f"{name}.src_tokens"])
    assert np.array_equal(distances, stored[f"{name}.src_distance"])
    assert np.array_equal(atoms, stored[f"{name}.node_feat"])
    assert np.array_equal(edges.T, stored[f"{name}.edge_index"])
    assert np.array_equal(bonds, stored[f"{name}.edge_attr"])


def test_3d_encoder(base: Any) -> None:
    stored, encoder = tensors("unimol"), base.unimol
    tokens, distances = stored["src_tokens"], stored["src_distance"]
    hidden, real = encoder(tokens, distances)
    assert torch.equal(real, stored["mask"])
    close(hidden[real], stored["output"][real])
    both = real[:, :, None] & real[:, None, :]
    types = stored["src_edge_type"]
    close(encoder.kernels(distances, types)[both], stored["gaussian"][both])
    bias = encoder.compute_pair_bias(tokens, distances).permute(0, 2, 3, 1)
    close(bias[both], stored["pair_bias"].permute(0, 2, 3, 1)[both])
    hidden = encoder.embed_norm(encoder.embed_tokens(tokens))
    close(hidden[real], stored["embedded"][real])
    hidden = hidden * real.unsqueeze(-1)
    bias = encoder.compute_pair_bias(tokens, distances).masked_fill(~real[:, None, None], float("-inf"))
    for i, layer in enumerate(encoder.layers):
        hidden, bias = layer(hidden, bias)
        close(hidden[real], stored[f"layer{i}.hidden"][real])
        close(bias.permute(0, 2, 3, 1)[both], stored[f"layer{i}.pair"].permute(0, 2, 3, 1)[both])


def test_2d_encoder(base: Any) -> None:
    stored = tensors("gin")
    output, real = base.gin(*molecules(*(stored[n] for n in ("node_feat", "edge_index", "edge_attr", "node_batch"))))
    assert torch.equal(real, stored["mask"])
    close(output, stored["output"])
    close(base.gin.atoms(stored["node_feat"]), stored["atom_embedding"])


def test_blending(base: Any) -> None:
    stored, blending = tensors("blending"), base.connector.blending
    given = [stored[name] for name in ("features_2d", "features_3d", "mask_2d", "mask_3d")]
    output, real = blending(*given)
    assert torch.equal(real, stored["mask"])
    close(output, stored["output"])
    assert not output[~real].any()
    flat, solid = (norm(side) for norm, side in ((blending.norm_2d, given[0]), (blending.norm_3d, given[1])))
    close(flat, stored["normed_2d"])
    close(solid, stored["normed_3d"])
    flat, solid = (proj(side) for proj, side in ((blending.proj_2d, flat), (blending.proj_3d, solid)))
    close(flat, stored["projected_2d"])
    close(solid, stored["projected_3d"])
    flat, solid = flat * given[2].unsqueeze(-1), solid * given[3].unsqueeze(-1)
    for i, block in enumerate(blending.blocks):
        flat, solid = block(flat, solid, *given[2:])
        close(flat[given[2]], stored[f"block{i}.2d"][given[2]])
        close(solid[given[3]], stored[f"block{i}.3d"][given[3]])


def test_qformer_and_projector(base: Any) -> None:
    stored, connector = tensors("qformer"), base.connector
    seen = connector.qformer(
        connector.query_tokens.expand(8, -1, -1),
        encoder_hidden_states=stored["encoder_hidden_states"],
        encoder_attention_mask=stored["encoder_mask"].long(),
        output_hidden_states=True,
    )
    close(seen.last_hidden_state, stored["output"])
    for i, hidden in enumerate(seen.hidden_states):
        close(hidden, stored[f"hidden{i}"])
    stored = tensors("projector")
    close(connector.proj(stored["input"]), stored["output"])


@pytest.mark.parametrize("name", CASES)
def test_prompts(name: str, folder: Path) -> None:
    from flex_judge.judges.protocol.rendering import Renderer
    from flex_judge.judges.protocol.turns import Span, Turn

    case, stored = CASES[name], tensors("prompts")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = case["messages"][-1]["role"] == "user"
    text = tokenizer.apply_chat_template(case["messages"], tokenize=False, add_generation_prompt=ends)
    text += "<think>" * case["think"]
    whole = expand_placeholders(text, len(case["molecules"]), 8)
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert ids == stored[f"{name}.input_ids"].tolist()
    assert expand_placeholders(whole, len(case["molecules"]), 8) == whole
    if ends:  # as a judge renders it, piece by piece
        turns = [Turn(one["role"], (Span(one["content"], trusted=True),)) for one in case["messages"]]
        plain = Renderer(tokenizer).render(turns, prefill="<think>" * case["think"])
        assert [i for i in plain.token_ids for _ in range(8 if i == REFERENCE["tokens"]["<mol>"] else 1)] == ids


@pytest.mark.parametrize(
    ("name", "counts"), [("full_model", [1, 1]), ("full_model_multi", [2, 1]), ("full_model_sft", [1, 1])]
)
def test_logits(name: str, counts: list[int], model: Any) -> None:
    stored, given = asked(name, counts)
    real = given["attention_mask"].bool()
    close(model(**given).logits[real], stored["logits"][real])


def test_greedy_decoding(model: Any) -> None:
    stored, given = asked("full_model", [1, 1])
    ends = REFERENCE["generation"]["stop_token_ids"]
    for stop, name in (([], "generated_ids"), ([int(stored["stop_token_id"])], "generated_ids_with_stop")):
        settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": [*ends, *stop]}
        made = model.generate(**given, **settings, pad_token_id=REFERENCE["generation"]["pad_token_id"])
        made = made[:, given["input_ids"].shape[1] :]
        wanted = stored[name][:, : made.shape[1]]
        assert torch.equal(made, wanted)
        assert (stored[name][:, made.shape[1] :] == REFERENCE["generation"]["pad_token_id"]).all()


def our_names(names: list[str]) -> dict[str, str]:
    """Official names of trained tensors -> those of the parameters of an adapted model."""
    found = {}
    for name in names:
        converted = rename_weights([{name: torch.zeros(1)}])
        if converted.model:
            found[name] = f"base_model.model.{next(iter(converted.model))}"
        else:
            found[name] = next(iter(converted.adapter)).replace(".weight", ".default.weight")
    return found


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


def trainable(folder: Path) -> Any:
    """With what the paper trains: adapters and connector."""
    model = adapted(folder)
    model.get_base_model().model.connector.requires_grad_(True)
    return model


def check_norms(found: dict[str, torch.Tensor], norms: dict[str, float]) -> None:
    names = our_names(list(norms))
    assert set(found) == set(names.values())
    for name, norm in norms.items():
        assert float(found[names[name]].norm()) == pytest.approx(norm, abs=BAR), name


def test_supervised_loss_and_its_gradients(folder: Path) -> None:
    model = trainable(folder)
    stored, given = asked("full_model_sft", [1, 1])
    loss = model(**given, labels=stored["labels"]).loss
    close(loss, stored["loss"])
    found = gradients(model, loss)
    check_norms(found, json.loads((GOLDEN / "sft_gradients.json").read_text())["gradient_l2_norms"])
    names = our_names([key.removeprefix("grad.") for key in stored if key.startswith("grad.")])
    for theirs, ours in names.items():
        close(found[ours], stored[f"grad.{theirs}"])


def test_merged_adapters(folder: Path) -> None:
    merged = adapted(folder).merge_and_unload()
    state = merged.state_dict()
    for name, tensor in rename_weights([tensors("merged_llama")]).model.items():
        close(state[name], tensor)
    _, given = asked("full_model", [1, 1])
    real = given["attention_mask"].bool()
    with torch.no_grad():
        close(merged(**given).logits[real], tensors("merged")["logits"][real])


def test_judge_under_the_molecule_model(folder: Path) -> None:
    judge = LlamaForCausalLM(LlamaConfig(**llama(REFERENCE["language_model"]["base_vocab_size"])))
    judge.load_state_dict(tensors("judge_llama"))
    model = import_judge(adapted(folder), judge)
    stored, (_, given) = tensors("judge_import"), asked("full_model", [1, 1])
    real = given["attention_mask"].bool()
    with torch.no_grad():
        logits = model(**given).logits[real]
        close(logits, stored["logits_own_added_rows"][real])
        close(logits[:, :-2], stored["logits_official"][real][:, :-2])
        made = model.generate(**given, max_new_tokens=12, do_sample=False, eos_token_id=324, pad_token_id=325)
    assert torch.equal(made[:, given["input_ids"].shape[1] :], stored["generated_ids_own_added_rows"])


def test_preference_loss_and_its_gradients(folder: Path) -> None:
    told = json.loads((GOLDEN / "dpo.json").read_text())
    stored, given = asked("dpo", [1, 1, 1, 1])
    policy = trainable(folder)
    trained = tensors("dpo_policy_trainable")
    names = our_names([name.removeprefix("mol_llama.") for name in trained])
    parameters = dict(policy.named_parameters())
    with torch.no_grad():
        for name, tensor in trained.items():
            parameters[names[name.removeprefix("mol_llama.")]].copy_(tensor)
    labels = stored["labels"][:, 1:]

    def sums(model: Any) -> torch.Tensor:
        logps = model(**given).logits[:, :-1].double().log_softmax(-1)
        picked = logps.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1) * (labels != -100)
        return picked.sum(1)

    with torch.no_grad():
        reference = sums(adapted(folder))
    said = sums(policy)
    for which, rows in (("rejected", slice(0, 2)), ("chosen", slice(2, 4))):
        close(said[rows], stored[f"policy_{which}_logps"])
        close(reference[rows], stored[f"reference_{which}_logps"])
    rewards = told["beta"] * (said - reference)
    loss = -torch.nn.functional.logsigmoid(rewards[2:] - rewards[:2]).mean()
    close(loss, stored["loss"])
    check_norms(gradients(policy, loss), told["gradient_l2_norms"])


def test_what_is_converted_loads_by_auto_classes(folder: Path) -> None:
    assert isinstance(AutoModelForCausalLM.from_pretrained(folder), MolLlamaForConditionalGeneration)
