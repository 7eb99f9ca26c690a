"""Molecule case study on tiny weights: sample, judge, make pairs, train two DPO steps, save and load."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mol_llama as tiny
import pytest
from lazy import lazy
from tiny_models import tiny_llama

from flex_judge.alignment.best_of_n.selection import SelectionSpec
from flex_judge.alignment.data.prompts import PromptColumns, parse_prompt_row
from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan, BestOfNWork
from flex_judge.alignment.pipeline.preferences import PreferencePlan, PreferenceWork
from flex_judge.alignment.policies import EnginePolicy
from flex_judge.alignment.policy_training.data import load_preference_data
from flex_judge.alignment.preferences import RuleSpec
from flex_judge.experiments.cli import main
from flex_judge.judges import FlexJudge, JudgeSettings
from flex_judge.judges.engines import EngineConfig, Sampling, load_engine
from flex_judge.judges.errors import UsageError

torch = lazy("torch")
expand_molecules = lazy("flex_judge.alignment.policy_training.molecule_rows", "expand_molecules")
load_file = lazy("safetensors.torch", "load_file")
MoleculeDPOTrainer, MoleculePreferenceCollator, load_trainable_policy = lazy(
    "flex_judge.alignment.policy_training.molecules",
    "MoleculeDPOTrainer",
    "MoleculePreferenceCollator",
    "load_trainable_policy",
)
MolLlamaForConditionalGeneration = lazy("flex_judge.judges.models.mol_llama", "MolLlamaForConditionalGeneration")

pytest.importorskip("rdkit")
SMILES = (tiny.ASPIRIN, tiny.CAFFEINE, tiny.WATER, tiny.SALT, "CCO", "c1ccccc1", "CC(=O)C", "C1CCCCC1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(tmp_path_factory.mktemp("mol") / "model")


def write_pairs(path: Path, *changes: dict[str, Any]) -> Path:
    rows = [
        {
            "prompt": [{"role": "user", "content": "What is <mol>?"}],
            "chosen": [{"role": "assistant", "content": f"A molecule of {len(smiles)} letters."}],
            "rejected": [{"role": "assistant", "content": "I do not know."}],
            "molecules": [smiles],
        }
        for smiles in SMILES
    ]
    for row, change in zip(rows, changes, strict=False):
        row.update(change)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_placeholder_is_replaced_by_the_molecule_once_or_expanded() -> None:
    def parse(text: str, molecules: list[str]) -> Any:
        return parse_prompt_row({"prompt": text, "molecules": molecules}, "here", 1, PromptColumns(), Path()).prompt

    plain = parse("Is <mol> like <mol>?", ["CCO", "O"])
    assert plain == parse(f"Is {'<mol>' * 8} like {'<mol>' * 8}?", ["CCO", "O"])
    assert [part if isinstance(part, str) else part.data for part in plain[0].content] == [
        "Is ",
        b"CCO",
        " like ",
        b"O",
        "?",
    ]
    with pytest.raises(UsageError, match="<mol> occurs 2 times in the text, and the row has 1 molecules"):
        parse("<mol><mol>", ["CCO"])


def test_only_adapters_and_connector_are_trained(folder: Path) -> None:
    policy = load_trainable_policy(str(folder), torch.float32)
    trained = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert all(".lora_" in name or ".connector.modules_to_save.default." in name for name in trained)
    assert sum(".lora_" in name for name in trained) == 2 * 7 * 2
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    parameters = dict(policy.named_parameters())
    for name, tensor in adapter.items():
        assert torch.equal(parameters[name.replace(".weight", ".default.weight")], tensor)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"molecules": ["C1CC"]}, r"row 1, field 'molecules', molecule 1: .*RDKit cannot parse it"),
        ({"molecules": [None]}, r"row 1, field 'molecules', molecule 1: expected a SMILES string, got None"),
        ({"molecules": []}, r"row 1, field 'prompt': has 1 times <mol> for 0 molecules"),
    ],
)
def test_invalid_molecule_row_is_rejected_with_its_number(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    data = load_preference_data(str(write_pairs(tmp_path / "pairs.jsonl")))
    data = replace(data, rows=[{**data.rows[0], **change}, *data.rows.select(range(1, 8))])
    with pytest.raises(UsageError, match=problem):
        expand_molecules(data, 8)


def test_molecules_can_be_message_parts_and_rows_with_a_placeholder_in_an_answer_are_dropped(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "molecule", "smiles": "CCO"}, {"type": "text", "text": "?"}]
    rows = [json.loads(line) for line in write_pairs(tmp_path / "pairs.jsonl").read_text().splitlines()]
    part_rows = [{**row, "prompt": [{"role": "user", "content": parts}], "molecules": None} for row in rows[:2]]
    (tmp_path / "parts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part_rows))
    expanded = expand_molecules(load_preference_data(str(tmp_path / "parts.jsonl")), 8)
    assert expanded.rows["molecules"][:] == [["CCO"], ["CCO"]]
    assert expanded.rows[0]["prompt"] == [{"role": "user", "content": f"What is {'<mol>' * 8}?"}]
    answer = {"chosen": [{"role": "assistant", "content": "It is <mol>."}]}
    remaining = expand_molecules(load_preference_data(str(write_pairs(tmp_path / "pairs.jsonl", answer))), 8)
    assert len(remaining.rows) == len(remaining.prompts) == 7
    assert remaining.problems[0].endswith("row 1, field 'chosen': has <mol> in an answer; the row is dropped")


CPU_FLAGS = ("--use_cpu", "--bf16", "False", "--held-out-prompts", "0", "--per_device_train_batch_size", "2")


def run_dpo(data: Path, policy: Path, out: Path, *flags: str) -> int:
    return main(["dpo", str(data), "--model_name_or_path", str(policy), "--output_dir", str(out), *CPU_FLAGS, *flags])


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--use_peft"], "brings its own adapters, which are trained"),
        (["--load_in_4bit"], "not supported for the molecular policy"),
        (["--truncation_mode", "keep_end"], "would cut molecules off"),
        (["--lora_modules_to_save", "lm_head"], "always saves its connector"),
        (["--attn_implementation", "nonsense"], "nonsense"),
        (["--max_length", "9"], "--max_length 9: no row is left to train on"),
    ],
)
def test_unsupported_setting_is_a_one_line_error(
    flags: list[str], problem: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_dpo(write_pairs(tmp_path / "pairs.jsonl"), folder, tmp_path / "policy", *flags) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flex-judge: error")]
    assert problem in error


def test_new_adapters_are_added_to_the_language_model_only(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("adapter"))
    data, out = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "policy"
    assert run_dpo(data, bare, out) == 2
    assert "add new ones with --use_peft" in capsys.readouterr().err
    assert run_dpo(data, bare, tmp_path / "wrong", "--use_peft", "--lora_target_modules", "q_projj") == 2
    assert "the language model has no q_projj; choose from down_proj" in capsys.readouterr().err
    assert run_dpo(data, bare, out, "--use_peft", "--max_steps", "1", "--lora_r", "4") == 0
    trained = load_file(out / "adapter_model.safetensors")
    adapters = [name for name in trained if ".lora_" in name]
    assert len(adapters) == 2 * 7 * 2
    assert all(".language_model." in name for name in adapters)
    assert {min(trained[name].shape) for name in adapters} == {4}


def test_text_policy_is_not_trained_on_molecule_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_dpo(write_pairs(tmp_path / "pairs.jsonl"), tiny_llama(tmp_path / "llama"), tmp_path / "policy") == 2
    assert "has molecules, which policy" in capsys.readouterr().err


def test_interrupted_run_resumes_with_the_same_policy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    data = write_pairs(tmp_path / "pairs.jsonl")
    flags = ("--max_steps", "4", "--learning_rate", "1e-2", "--save_steps", "2", "--logging_steps", "1", "--seed", "3")
    assert run_dpo(data, folder, tmp_path / "whole", *flags) == 0
    step = Trainer.training_step

    def interrupt_training_step(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(MoleculeDPOTrainer, "training_step", interrupt_training_step)
        with contextlib.suppress(KeyboardInterrupt):
            assert run_dpo(data, folder, tmp_path / "again", *flags) != 0
    assert run_dpo(data, folder, tmp_path / "again", *flags) == 0
    complete, resumed = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "again"))
    for name, tensor in complete.items():
        torch.testing.assert_close(resumed[name], tensor, atol=1e-6, rtol=0, msg=name)


def test_trained_weights_are_32_bit_so_that_small_updates_count(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    from trl import DPOConfig

    policy, tokenizer = load_trainable_policy(str(folder), torch.bfloat16), AutoTokenizer.from_pretrained(folder)
    trainer = MoleculeDPOTrainer(
        model=policy,
        args=DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", learning_rate=1e-5, max_steps=1),
        train_dataset=expand_molecules(load_preference_data(str(write_pairs(tmp_path / "pairs.jsonl"))), 8).rows,
        processing_class=tokenizer,
        data_collator=MoleculePreferenceCollator(tokenizer.pad_token_id),
    )
    assert {parameter.dtype for parameter in policy.parameters() if parameter.requires_grad} == {torch.float32}
    place = "base_model.model.model.connector.modules_to_save.default.proj.weight"
    initial = policy.get_parameter(place).clone()
    trainer.train()
    assert (policy.get_parameter(place) != initial).float().mean() > 0.9


def test_two_dpo_steps_are_saved_and_loaded_with_equal_logits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_pairs(tmp_path / "pairs.jsonl"), tmp_path / "policy"
    assert (
        load_preference_data(str(data)).prompts[0] != load_preference_data(str(data)).prompts[1]
    )  # the prompts differ only in their molecules
    command = ["dpo", str(data), "--model_name_or_path", str(folder), "--output_dir", str(out), "--max_steps", "2"]
    command += ["--per_device_train_batch_size", "2", "--learning_rate", "1e-2", "--use_cpu", "--bf16", "False"]
    command += ["--held-out-prompts", "0", "--dtype", "float32", "--logging_steps", "1", "--seed", "3"]
    assert main(command) == 0
    assert not (out / "ref").exists()
    log = json.loads((out / "training.json").read_text())["log"]
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # policy and reference are equal at the start
    trained = load_file(out / "adapter_model.safetensors")
    assert any(".connector." in name for name in trained)
    assert not any("unimol" in name or ".gin." in name for name in trained)

    from peft import PeftModel

    def logits(model: Any) -> Any:
        with torch.no_grad():
            return model(input_ids=torch.arange(12)[None]).logits

    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    initial = logits(PeftModel.from_pretrained(base, folder / "adapter").eval())
    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    tuned = logits(PeftModel.from_pretrained(base, out).eval())
    assert (tuned - initial).abs().max() > 1e-3
    engine = load_engine(EngineConfig(str(folder), adapter=str(out), dtype="float32"))
    torch.testing.assert_close(logits(engine.model), tuned, atol=2e-5, rtol=0)  # type: ignore[attr-defined]
    connector = engine.model.model.connector.proj.weight  # type: ignore[attr-defined]
    assert torch.equal(connector, trained["base_model.model.model.connector.proj.weight"])
    engine.close()


def test_grpo_of_a_molecular_policy_is_rejected(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["grpo", "--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "policy"), "--use_cpu"]
    assert main([*command, "--bf16", "False"]) == 2
    assert "TRL's GRPOTrainer does not support molecules" in capsys.readouterr().err


async def sample_and_judge(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Sample a policy's answers, judge them with the molecule as input, and return best-of-N results and pairs."""
    policy = EnginePolicy(load_engine(EngineConfig(str(folder), dtype="float32")))
    judge = FlexJudge(policy.engine, JudgeSettings(max_think_tokens=8, order="both"))
    rule = RuleSpec("two_temperatures")
    sampling = Sampling(8, 0.8, seed=4)
    best = BestOfNWork(
        BestOfNPlan(None, sampling, 4, SelectionSpec(rubric="membrane_permeability")), policy, judge.ajudge
    )  # type: ignore[arg-type]
    plan = PreferencePlan(
        None,  # type: ignore[arg-type]
        sampling,
        1,
        "general",
        hot=1.2,
        rule=rule,
        molecules=True,
    )
    make_pairs = PreferenceWork(plan, policy, judge.ajudge)
    results, rows = [], []
    for i, smiles in enumerate(SMILES[:4]):
        columns = {"prompt": "Does <mol> pass a membrane?", "molecules": [smiles]}
        row = parse_prompt_row(columns, f"row {i + 1}", i + 1, PromptColumns(), Path())
        results += (await best(row)).tables["best_of_n"]
        rows += (await make_pairs(row)).tables["preferences"]
    policy.close()
    return results, rows


def test_full_chain_from_samples_to_dpo(folder: Path, tmp_path: Path) -> None:
    results, rows = asyncio.run(sample_and_judge(folder))
    assert len(results) == 4
    assert all(len(result["responses"]) == 4 and result["best"] in range(4) for result in results)
    assert {tuple(row["molecules"]) for row in rows} <= {(smiles,) for smiles in SMILES}
    assert all(row["prompt"][0]["content"] == "Does <mol> pass a membrane?" for row in rows)
    data = tmp_path / "pairs.jsonl"
    chosen = {result["id"]: result["text"] for result in results}
    if len(rows) < 4:  # random weights may give few pairs; then the chosen answers are used in made-up pairs
        rows = [json.loads(line) for line in write_pairs(data).read_text().splitlines()]
        for i, row in enumerate(rows[:4], 1):
            row["chosen"][0]["content"] = chosen[str(i)].replace("<mol>", "")
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "policy"
    command = ["dpo", str(data), "--model_name_or_path", str(folder), "--output_dir", str(out), "--max_steps", "2"]
    command += ["--per_device_train_batch_size", "2", "--use_cpu", "--bf16", "False", "--held-out-prompts", "0"]
    assert main([*command, "--dtype", "float32"]) == 0
    assert asyncio.run(_first_answer(folder, str(out))) == asyncio.run(_first_answer(folder, str(out)))


async def _first_answer(folder: Path, adapter: str) -> str:
    policy = EnginePolicy(load_engine(EngineConfig(str(folder), adapter=adapter, dtype="float32")))
    row = parse_prompt_row({"prompt": "<mol>?", "molecules": ["CCO"]}, "here", 1, PromptColumns(), Path())
    (answer,) = await policy.sample(row.prompt, Sampling(8), [0])
    policy.close()
    return answer.text
