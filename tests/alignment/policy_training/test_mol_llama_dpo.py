"""The case study on tiny weights: sample, judge, make pairs, two steps of DPO, save, load, say the same."""

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


def pairs(path: Path, *changes: dict[str, Any]) -> Path:
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


def test_a_place_in_a_text_becomes_the_molecule_once_and_expanded() -> None:
    def read(text: str, molecules: list[str]) -> Any:
        return parse_prompt_row({"prompt": text, "molecules": molecules}, "here", 1, PromptColumns(), Path()).prompt

    plain = read("Is <mol> like <mol>?", ["CCO", "O"])
    assert plain == read(f"Is {'<mol>' * 8} like {'<mol>' * 8}?", ["CCO", "O"])
    assert [part if isinstance(part, str) else part.data for part in plain[0].content] == [
        "Is ",
        b"CCO",
        " like ",
        b"O",
        "?",
    ]
    with pytest.raises(UsageError, match="has 2 times <mol> for 1 molecules"):
        read("<mol><mol>", ["CCO"])


def test_trained_are_adapters_and_connector_and_nothing_else(folder: Path) -> None:
    policy = load_trainable_policy(str(folder), torch.float32)
    trained = {name for name, one in policy.named_parameters() if one.requires_grad}
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
def test_a_row_that_cannot_be_shown_is_named(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    data = load_preference_data(str(pairs(tmp_path / "pairs.jsonl")))
    data = replace(data, rows=[{**data.rows[0], **change}, *data.rows.select(range(1, 8))])
    with pytest.raises(UsageError, match=problem):
        expand_molecules(data, 8)


def test_molecules_are_parts_of_messages_or_a_column_and_a_place_in_an_answer_is_left_out(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "molecule", "smiles": "CCO"}, {"type": "text", "text": "?"}]
    rows = [json.loads(line) for line in pairs(tmp_path / "pairs.jsonl").read_text().splitlines()]
    told = [{**row, "prompt": [{"role": "user", "content": parts}], "molecules": None} for row in rows[:2]]
    (tmp_path / "parts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    shown = expand_molecules(load_preference_data(str(tmp_path / "parts.jsonl")), 8)
    assert shown.rows["molecules"][:] == [["CCO"], ["CCO"]]
    assert shown.rows[0]["prompt"] == [{"role": "user", "content": f"What is {'<mol>' * 8}?"}]
    answer = {"chosen": [{"role": "assistant", "content": "It is <mol>."}]}
    left = expand_molecules(load_preference_data(str(pairs(tmp_path / "pairs.jsonl", answer))), 8)
    assert len(left.rows) == len(left.prompts) == 7
    assert left.problems[0].endswith("row 1, field 'chosen': has <mol> in an answer; the row is left out")


HERE = ("--use_cpu", "--bf16", "False", "--held-out-prompts", "0", "--per_device_train_batch_size", "2")


def dpo(data: Path, policy: Path, out: Path, *flags: str) -> int:
    return main(["dpo", str(data), "--model_name_or_path", str(policy), "--output_dir", str(out), *HERE, *flags])


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--use_peft"], "brings its own, which are trained; leave it out"),
        (["--load_in_4bit"], "is trained unquantized"),
        (["--truncation_mode", "keep_end"], "would cut molecules off"),
        (["--lora_modules_to_save", "lm_head"], "that is the connector; leave it out"),
        (["--attn_implementation", "nonsense"], "nonsense"),
        (["--max_length", "9"], "each prompt alone is longer than --max_length 9"),
    ],
)
def test_a_setting_that_does_not_fit_is_one_line(
    flags: list[str], problem: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dpo(pairs(tmp_path / "pairs.jsonl"), folder, tmp_path / "policy", *flags) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("flex-judge: error")]
    assert problem in said


def test_new_adapters_are_on_the_language_model_alone(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare", ignore=shutil.ignore_patterns("adapter"))
    data, out = pairs(tmp_path / "pairs.jsonl"), tmp_path / "policy"
    assert dpo(data, bare, out) == 2
    assert "add new ones with --use_peft" in capsys.readouterr().err
    assert dpo(data, bare, tmp_path / "wrong", "--use_peft", "--lora_target_modules", "q_projj") == 2
    assert "the language model has no q_projj; choose down_proj" in capsys.readouterr().err
    assert dpo(data, bare, out, "--use_peft", "--max_steps", "1", "--lora_r", "4") == 0
    trained = load_file(out / "adapter_model.safetensors")
    adapters = [name for name in trained if ".lora_" in name]
    assert len(adapters) == 2 * 7 * 2
    assert all(".language_model." in name for name in adapters)
    assert {min(trained[name].shape) for name in adapters} == {4}


def test_a_policy_that_sees_no_molecules_is_not_trained_on_their_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dpo(pairs(tmp_path / "pairs.jsonl"), tiny_llama(tmp_path / "llama"), tmp_path / "policy") == 2
    assert "has molecules, which policy" in capsys.readouterr().err


def test_a_run_that_was_interrupted_goes_on_with_the_policy_as_it_was(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import Trainer

    data = pairs(tmp_path / "pairs.jsonl")
    flags = ("--max_steps", "4", "--learning_rate", "1e-2", "--save_steps", "2", "--logging_steps", "1", "--seed", "3")
    assert dpo(data, folder, tmp_path / "whole", *flags) == 0
    step = Trainer.training_step

    def interrupted(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if trainer.state.global_step == 3:
            raise KeyboardInterrupt
        return step(trainer, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(MoleculeDPOTrainer, "training_step", interrupted)
        with contextlib.suppress(KeyboardInterrupt):
            assert dpo(data, folder, tmp_path / "again", *flags) != 0
    assert dpo(data, folder, tmp_path / "again", *flags) == 0
    whole, again = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("whole", "again"))
    for name, tensor in whole.items():
        torch.testing.assert_close(again[name], tensor, atol=1e-6, rtol=0, msg=name)


def test_all_that_is_trained_is_in_32_bits_so_that_small_steps_count(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    from trl import DPOConfig

    policy, tokenizer = load_trainable_policy(str(folder), torch.bfloat16), AutoTokenizer.from_pretrained(folder)
    trainer = MoleculeDPOTrainer(
        model=policy,
        args=DPOConfig(str(tmp_path), use_cpu=True, bf16=False, report_to="none", learning_rate=1e-5, max_steps=1),
        train_dataset=expand_molecules(load_preference_data(str(pairs(tmp_path / "pairs.jsonl"))), 8).rows,
        processing_class=tokenizer,
        data_collator=MoleculePreferenceCollator(tokenizer.pad_token_id),
    )
    assert {one.dtype for one in policy.parameters() if one.requires_grad} == {torch.float32}
    place = "base_model.model.model.connector.modules_to_save.default.proj.weight"
    before = policy.get_parameter(place).clone()
    trainer.train()
    assert (policy.get_parameter(place) != before).float().mean() > 0.9


def test_two_steps_of_dpo_are_saved_and_say_the_same_when_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = pairs(tmp_path / "pairs.jsonl"), tmp_path / "policy"
    assert (
        load_preference_data(str(data)).prompts[0] != load_preference_data(str(data)).prompts[1]
    )  # told by their molecules
    command = ["dpo", str(data), "--model_name_or_path", str(folder), "--output_dir", str(out), "--max_steps", "2"]
    command += ["--per_device_train_batch_size", "2", "--learning_rate", "1e-2", "--use_cpu", "--bf16", "False"]
    command += ["--held-out-prompts", "0", "--dtype", "float32", "--logging_steps", "1", "--seed", "3"]
    assert main(command) == 0
    assert not (out / "ref").exists()
    log = json.loads((out / "training.json").read_text())["log"]
    assert log[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # the reference is the policy as it begins
    trained = load_file(out / "adapter_model.safetensors")
    assert any(".connector." in name for name in trained)
    assert not any("unimol" in name or ".gin." in name for name in trained)

    from peft import PeftModel

    def logits(model: Any) -> Any:
        with torch.no_grad():
            return model(input_ids=torch.arange(12)[None]).logits

    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    before = logits(PeftModel.from_pretrained(base, folder / "adapter").eval())
    base = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    after = logits(PeftModel.from_pretrained(base, out).eval())
    assert (after - before).abs().max() > 1e-3
    engine = load_engine(EngineConfig(str(folder), adapter=str(out), dtype="float32"))
    torch.testing.assert_close(logits(engine.model), after, atol=2e-5, rtol=0)  # type: ignore[attr-defined]
    connector = engine.model.model.connector.proj.weight  # type: ignore[attr-defined]
    assert torch.equal(connector, trained["base_model.model.model.connector.proj.weight"])
    engine.close()


def test_grpo_is_refused_before_anything_is_started(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["grpo", "--model_name_or_path", str(folder), "--output_dir", str(tmp_path / "policy"), "--use_cpu"]
    assert main([*command, "--bf16", "False"]) == 2
    assert "sees molecules, which TRL's GRPOTrainer does not show it" in capsys.readouterr().err


async def _chosen(folder: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Best-of-N results and pairs of a policy's own answers, judged while the molecule is seen."""
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
    pairs_of = PreferenceWork(plan, policy, judge.ajudge)
    results, rows = [], []
    for i, smiles in enumerate(SMILES[:4]):
        asked = {"prompt": "Does <mol> pass a membrane?", "molecules": [smiles]}
        row = parse_prompt_row(asked, f"row {i + 1}", i + 1, PromptColumns(), Path())
        results += (await best(row)).tables["best_of_n"]
        rows += (await pairs_of(row)).tables["preferences"]
    policy.close()
    return results, rows


def test_the_whole_chain(folder: Path, tmp_path: Path) -> None:
    results, rows = asyncio.run(_chosen(folder))
    assert len(results) == 4
    assert all(len(result["responses"]) == 4 and result["best"] in range(4) for result in results)
    assert {tuple(row["molecules"]) for row in rows} <= {(smiles,) for smiles in SMILES}
    assert all(row["prompt"][0]["content"] == "Does <mol> pass a membrane?" for row in rows)
    data = tmp_path / "pairs.jsonl"
    chosen = {result["id"]: result["text"] for result in results}
    if len(rows) < 4:  # of random weights few pairs may be left; what was chosen is one side of others
        rows = [json.loads(line) for line in pairs(data).read_text().splitlines()]
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
