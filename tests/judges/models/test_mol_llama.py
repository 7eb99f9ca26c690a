"""Mol-LLaMA as a transformers model: molecules alone and in batches, generation, training and adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mol_llama as tiny
import pytest
from lazy import lazy

torch = lazy("torch")
AutoConfig, AutoModelForCausalLM, AutoProcessor = lazy(
    "transformers", "AutoConfig", "AutoModelForCausalLM", "AutoProcessor"
)
MolLlamaForConditionalGeneration, import_judge = lazy(
    "flex_judge.judges.models.mol_llama", "MolLlamaForConditionalGeneration", "import_judge"
)
FROZEN = lazy("flex_judge.judges.models.mol_llama.modeling", "FROZEN")

pytest.importorskip("rdkit")
PROMPT = (
    "<|start_header_id|>user<|end_header_id|>\n\nWhat is <mol>?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
TWO_MOLECULES = PROMPT.replace("<mol>", "<mol> next to <mol>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(tmp_path_factory.mktemp("mol") / "model")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor(folder: Path) -> Any:
    return AutoProcessor.from_pretrained(folder)


@pytest.fixture(scope="module")
def adapted(folder: Path) -> Any:
    from peft import PeftModel

    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder / "adapter").eval()


def make_inputs(processor: Any, *prompts: tuple[str, list[str]]) -> Any:
    texts, molecules = zip(*prompts, strict=True)
    return processor(list(texts), list(molecules), return_tensors="pt", padding=True)


def compute_logits(model: Any, inputs: Any) -> Any:
    """Compute the logits of the reply's first token."""
    with torch.no_grad():
        return model(**inputs).logits[:, -1]


def test_auto_classes_load_the_model(folder: Path, model: Any) -> None:
    assert isinstance(model, MolLlamaForConditionalGeneration)
    assert AutoConfig.from_pretrained(folder).molecule_token_id == model.config.molecule_token_id


def test_molecule_changes_the_logits(model: Any, processor: Any) -> None:
    molecules = (tiny.ASPIRIN, tiny.CAFFEINE, tiny.WATER)
    first, second, third = (compute_logits(model, make_inputs(processor, (PROMPT, [m]))) for m in molecules)
    assert min((a - b).abs().max() for a, b in ((first, second), (second, third))) > 1e-3


def test_batched_prompt_matches_the_prompt_alone(model: Any, processor: Any) -> None:
    prompts = [
        (PROMPT, [tiny.ASPIRIN]),
        (TWO_MOLECULES, [tiny.WATER, tiny.CAFFEINE]),
        ("Hello.", []),
        (PROMPT, [tiny.SALT]),
    ]
    together = compute_logits(model, make_inputs(processor, *prompts))
    for row, prompt in zip(together, prompts, strict=True):
        torch.testing.assert_close(row, compute_logits(model, make_inputs(processor, prompt))[0], atol=2e-5, rtol=0)


def test_molecule_order_follows_the_placeholders(model: Any, processor: Any) -> None:
    first, second = (
        make_inputs(processor, (TWO_MOLECULES, pair)) for pair in ([tiny.WATER, tiny.SALT], [tiny.SALT, tiny.WATER])
    )
    assert (compute_logits(model, first) - compute_logits(model, second)).abs().max() > 1e-3


def test_expanded_text_is_not_expanded_again(processor: Any) -> None:
    plain = processor(PROMPT, [[tiny.WATER]], return_tensors="pt")
    expanded = processor(PROMPT.replace("<mol>", "<mol>" * tiny.QUERIES), [[tiny.WATER]], return_tensors="pt")
    assert torch.equal(plain["input_ids"], expanded["input_ids"])
    with pytest.raises(ValueError, match="has 2 times <mol> for 1 molecules"):
        processor(TWO_MOLECULES, [[tiny.WATER]])


def test_invalid_smiles_is_named_with_its_prompt(processor: Any) -> None:
    with pytest.raises(ValueError, match=r"text 2, molecule 1: RDKit cannot parse it.*C1CC"):
        processor([PROMPT, PROMPT, PROMPT], [[tiny.WATER], ["C1CC"], [tiny.SALT]])


def test_mismatched_placeholders_and_molecules_are_rejected(model: Any, processor: Any) -> None:
    inputs = make_inputs(processor, (PROMPT, [tiny.WATER]))
    without = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="8 molecule placeholders, but no molecules passed"):
        model(**without)
    inputs["input_ids"][0, 0] = model.config.molecule_token_id
    with pytest.raises(ValueError, match=r"\[9\] molecule placeholders, expected \[8\] for their molecules"):
        model(**inputs)


def test_generation_matches_with_and_without_kv_cache(model: Any, processor: Any) -> None:
    inputs = make_inputs(processor, (PROMPT, [tiny.ASPIRIN]), (TWO_MOLECULES, [tiny.WATER, tiny.CAFFEINE]))
    with_cache, without_cache = (
        model.generate(**inputs, max_new_tokens=12, do_sample=False, use_cache=cache) for cache in (True, False)
    )
    assert torch.equal(with_cache, without_cache)


def test_beams_and_samples_keep_their_own_molecules(model: Any, processor: Any) -> None:
    prompts = (TWO_MOLECULES, [tiny.WATER, tiny.CAFFEINE]), (PROMPT, [tiny.ASPIRIN])
    inputs = make_inputs(processor, *prompts)
    beams = model.generate(**inputs, max_new_tokens=8, num_beams=3, num_return_sequences=3, do_sample=False)
    assert len(beams) == 6
    greedy = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    alone = [model.generate(**make_inputs(processor, prompt), max_new_tokens=8, do_sample=False) for prompt in prompts]
    for row, reply in zip(greedy, alone, strict=True):
        assert torch.equal(row[-8:], reply[0, -8:])


def test_encoders_stay_in_evaluation_mode_during_training(folder: Path, processor: Any) -> None:
    model = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model.train()
    assert model.model.connector.training
    assert not any(getattr(model.model, name).training for name in FROZEN)
    original = {name: tensor.clone() for name, tensor in model.model.gin.state_dict().items()}
    model(**make_inputs(processor, (PROMPT, [tiny.ASPIRIN])))
    assert all(torch.equal(original[name], tensor) for name, tensor in model.model.gin.state_dict().items())


def test_gradients_match_with_gradient_checkpointing(folder: Path, processor: Any) -> None:
    inputs = make_inputs(processor, (PROMPT + "Salt.", [tiny.SALT]), (PROMPT + "Water it is.", [tiny.WATER]))
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    norms = []
    for checkpointing in (False, True):
        model = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
        model.eval()
        if checkpointing:
            model.train()
            model.gradient_checkpointing_enable()
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = 0.0
            model.model.connector.qformer.config.attention_probs_dropout_prob = 0.0
            for module in model.model.connector.qformer.modules():
                if hasattr(module, "attention_dropout"):
                    module.attention_dropout = 0.0
        model(**inputs, labels=labels).loss.backward()
        norms.append(model.model.connector.query_tokens.grad.norm())
    assert norms[0] > 0
    torch.testing.assert_close(*norms)


def test_model_round_trips_through_save_and_load(model: Any, processor: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    inputs = make_inputs(processor, (PROMPT, [tiny.CAFFEINE]))
    assert torch.equal(compute_logits(model, inputs), compute_logits(again, inputs))


def test_merged_adapter_matches_the_separate_one(model: Any, adapted: Any, processor: Any, folder: Path) -> None:
    from peft import PeftModel

    inputs = make_inputs(processor, (PROMPT, [tiny.ASPIRIN]))
    assert (compute_logits(adapted, inputs) - compute_logits(model, inputs)).abs().max() > 1e-2
    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload().eval()
    torch.testing.assert_close(compute_logits(merged, inputs), compute_logits(adapted, inputs), atol=2e-5, rtol=0)


def test_import_judge_replaces_the_language_model_under_the_adapter(
    folder: Path, processor: Any, tmp_path: Path
) -> None:
    from peft import PeftModel

    judge = AutoModelForCausalLM.from_pretrained(tiny.write_tiny_judge(tmp_path / "judge"), dtype=torch.float32)
    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    added_rows = base.lm_head.weight[-2:].clone()
    projection = base.model.connector.proj.weight.clone()
    imported = import_judge(PeftModel.from_pretrained(base, folder / "adapter"), judge).eval()
    assert torch.equal(base.lm_head.weight[:-2], judge.lm_head.weight)
    assert torch.equal(base.lm_head.weight[-2:], added_rows)
    assert torch.equal(base.model.connector.proj.weight, projection)
    text = make_inputs(processor, ("Hello.", []))
    with imported.disable_adapter():
        torch.testing.assert_close(
            compute_logits(imported, text)[:, :-2], compute_logits(judge, text), atol=2e-5, rtol=0
        )
    assert (compute_logits(imported, text)[:, :-2] - compute_logits(judge, text)).abs().max() > 1e-2


def test_judge_of_other_dimensions_is_rejected(folder: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    base = MolLlamaForConditionalGeneration.from_pretrained(folder)
    text = base.config.text_config.to_dict()
    with pytest.raises(ValueError, match=r"lacks 9 weights, the first is 'model.language_model.layers.1"):
        import_judge(base, LlamaForCausalLM(LlamaConfig(**text | {"num_hidden_layers": 1})))
    with pytest.raises(ValueError, match="has shape"):
        import_judge(base, LlamaForCausalLM(LlamaConfig(**text | {"intermediate_size": 32})))
