"""Mol-LLaMA as a transformers model: what it sees, alone and in batches, and that it behaves as models do."""

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
ASKED = (
    "<|start_header_id|>user<|end_header_id|>\n\nWhat is <mol>?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
BOTH = ASKED.replace("<mol>", "<mol> beside <mol>")


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


def inputs(processor: Any, *asked: tuple[str, list[str]]) -> Any:
    texts, molecules = zip(*asked, strict=True)
    return processor(list(texts), list(molecules), return_tensors="pt", padding=True)


def logits(model: Any, given: Any) -> Any:
    """Of the last position, which is that of the reply's first token."""
    with torch.no_grad():
        return model(**given).logits[:, -1]


def test_auto_classes_know_the_model(folder: Path, model: Any) -> None:
    assert isinstance(model, MolLlamaForConditionalGeneration)
    assert AutoConfig.from_pretrained(folder).molecule_token_id == model.config.molecule_token_id


def test_what_a_prompt_shows_changes_what_is_said_of_it(model: Any, processor: Any) -> None:
    said = [logits(model, inputs(processor, (ASKED, [one]))) for one in (tiny.ASPIRIN, tiny.CAFFEINE, tiny.WATER)]
    assert min((a - b).abs().max() for a, b in ((said[0], said[1]), (said[1], said[2]))) > 1e-3


def test_a_prompt_in_a_batch_is_the_prompt_alone(model: Any, processor: Any) -> None:
    asked = [(ASKED, [tiny.ASPIRIN]), (BOTH, [tiny.WATER, tiny.CAFFEINE]), ("Hello.", []), (ASKED, [tiny.SALT])]
    together = logits(model, inputs(processor, *asked))
    for row, one in zip(together, asked, strict=True):
        torch.testing.assert_close(row, logits(model, inputs(processor, one))[0], atol=2e-5, rtol=0)


def test_the_order_of_molecules_is_that_of_their_places(model: Any, processor: Any) -> None:
    one, other = (inputs(processor, (BOTH, pair)) for pair in ([tiny.WATER, tiny.SALT], [tiny.SALT, tiny.WATER]))
    assert (logits(model, one) - logits(model, other)).abs().max() > 1e-3


def test_a_text_that_is_expanded_already_is_not_expanded_again(processor: Any) -> None:
    plain = processor(ASKED, [[tiny.WATER]], return_tensors="pt")
    whole = processor(ASKED.replace("<mol>", "<mol>" * tiny.QUERIES), [[tiny.WATER]], return_tensors="pt")
    assert torch.equal(plain["input_ids"], whole["input_ids"])
    with pytest.raises(ValueError, match="has 2 times <mol> for 1 molecules"):
        processor(BOTH, [[tiny.WATER]])


def test_a_wrong_smiles_is_named_and_shifts_no_other(processor: Any) -> None:
    with pytest.raises(ValueError, match=r"text 2, molecule 1: is no molecule that RDKit can read.*C1CC"):
        processor([ASKED, ASKED, ASKED], [[tiny.WATER], ["C1CC"], [tiny.SALT]])


def test_places_and_molecules_that_do_not_agree_are_refused(model: Any, processor: Any) -> None:
    given = inputs(processor, (ASKED, [tiny.WATER]))
    without = {name: given[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="8 placeholders for molecules, and no molecule"):
        model(**without)
    given["input_ids"][0, 0] = model.config.molecule_token_id
    with pytest.raises(ValueError, match=r"have \[9\] placeholders, where their molecules take \[8\]"):
        model(**given)


def test_generation_with_a_cache_says_what_it_says_without(model: Any, processor: Any) -> None:
    given = inputs(processor, (ASKED, [tiny.ASPIRIN]), (BOTH, [tiny.WATER, tiny.CAFFEINE]))
    kept, anew = (
        model.generate(**given, max_new_tokens=12, do_sample=False, use_cache=cache) for cache in (True, False)
    )
    assert torch.equal(kept, anew)


def test_several_samples_of_a_prompt_see_its_own_molecules(model: Any, processor: Any) -> None:
    asked = (BOTH, [tiny.WATER, tiny.CAFFEINE]), (ASKED, [tiny.ASPIRIN])
    given = inputs(processor, *asked)
    beams = model.generate(**given, max_new_tokens=8, num_beams=3, num_return_sequences=3, do_sample=False)
    assert len(beams) == 6
    greedy = model.generate(**given, max_new_tokens=8, do_sample=False)
    alone = [model.generate(**inputs(processor, one), max_new_tokens=8, do_sample=False) for one in asked]
    for row, one in zip(greedy, alone, strict=True):
        assert torch.equal(row[-8:], one[0, -8:])


def test_the_encoders_stay_as_they_are_used_while_the_rest_is_trained(folder: Path, processor: Any) -> None:
    model = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    model.train()
    assert model.model.connector.training
    assert not any(getattr(model.model, name).training for name in FROZEN)
    before = {name: tensor.clone() for name, tensor in model.model.gin.state_dict().items()}
    model(**inputs(processor, (ASKED, [tiny.ASPIRIN])))
    assert all(torch.equal(before[name], tensor) for name, tensor in model.model.gin.state_dict().items())


def test_gradients_are_the_same_with_checkpointing(folder: Path, processor: Any) -> None:
    given = inputs(processor, (ASKED + "Salt.", [tiny.SALT]), (ASKED + "Water it is.", [tiny.WATER]))
    labels = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
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
        model(**given, labels=labels).loss.backward()
        norms.append(model.model.connector.query_tokens.grad.norm())
    assert norms[0] > 0
    torch.testing.assert_close(*norms)


def test_saved_and_loaded_it_is_the_same(model: Any, processor: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    given = inputs(processor, (ASKED, [tiny.CAFFEINE]))
    assert torch.equal(logits(model, given), logits(again, given))


def test_adapters_folded_in_say_the_same(model: Any, adapted: Any, processor: Any, folder: Path) -> None:
    from peft import PeftModel

    given = inputs(processor, (ASKED, [tiny.ASPIRIN]))
    assert (logits(adapted, given) - logits(model, given)).abs().max() > 1e-2
    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, folder / "adapter").merge_and_unload().eval()
    torch.testing.assert_close(logits(merged, given), logits(adapted, given), atol=2e-5, rtol=0)


def test_a_judge_s_weights_come_under_the_adapters(folder: Path, processor: Any, tmp_path: Path) -> None:
    from peft import PeftModel

    judge = AutoModelForCausalLM.from_pretrained(tiny.write_tiny_judge(tmp_path / "judge"), dtype=torch.float32)
    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    own = base.lm_head.weight[-2:].clone()
    eyes = base.model.connector.proj.weight.clone()
    imported = import_judge(PeftModel.from_pretrained(base, folder / "adapter"), judge).eval()
    assert torch.equal(base.lm_head.weight[:-2], judge.lm_head.weight)
    assert torch.equal(base.lm_head.weight[-2:], own)
    assert torch.equal(base.model.connector.proj.weight, eyes)
    text = inputs(processor, ("Hello.", []))
    with imported.disable_adapter():
        torch.testing.assert_close(logits(imported, text)[:, :-2], logits(judge, text), atol=2e-5, rtol=0)
    assert (logits(imported, text)[:, :-2] - logits(judge, text)).abs().max() > 1e-2


def test_a_judge_of_other_dimensions_is_refused(folder: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    base = MolLlamaForConditionalGeneration.from_pretrained(folder)
    text = base.config.text_config.to_dict()
    with pytest.raises(ValueError, match=r"lacks 9 weights, of which the first is 'model.language_model.layers.1"):
        import_judge(base, LlamaForCausalLM(LlamaConfig(**text | {"num_hidden_layers": 1})))
    with pytest.raises(ValueError, match="is of shape"):
        import_judge(base, LlamaForCausalLM(LlamaConfig(**text | {"intermediate_size": 32})))
