"""The case study on tiny weights: sample, judge, make pairs, two steps of DPO, save, load, say the same."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import mol_llama as tiny
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from alignment.policies import EnginePolicy
from alignment.preferences import RuleSpec
from alignment.prompts import Columns, prompt_row
from alignment.scale.best_of_n import BestOfN, BestOfNPlan
from alignment.scale.preferences import PreferencePlan, Preferences
from alignment.selection import SelectionSpec
from alignment.training.data import preference_data
from alignment.training.molecules import policy_to_train, with_places
from experiments.cli import main
from judges import FlexJudge, JudgeSettings
from judges.engines import EngineConfig, Sampling, load_engine
from judges.errors import UsageError
from judges.models.mol_llama import MolLlamaForConditionalGeneration

pytest.importorskip("rdkit")
SMILES = (tiny.ASPIRIN, tiny.CAFFEINE, tiny.WATER, tiny.SALT, "CCO", "c1ccccc1", "CC(=O)C", "C1CCCCC1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny(tmp_path_factory.mktemp("mol") / "model")


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
        return prompt_row({"prompt": text, "molecules": molecules}, "here", 1, Columns(), Path()).prompt

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
    policy = policy_to_train(str(folder), torch.float32)
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
        ({"molecules": ["C1CC"]}, r"row 1, field 'molecules', molecule 1: .* no molecule that RDKit can read"),
        ({"molecules": []}, r"row 1, field 'prompt': has 1 times <mol> for 0 molecules"),
        ({"chosen": [{"role": "assistant", "content": "It is <mol>."}]}, r"row 1, field 'chosen': has <mol> in an"),
    ],
)
def test_a_row_that_cannot_be_shown_is_named(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in pairs(tmp_path / "pairs.jsonl", change).read_text().splitlines()]
    with pytest.raises(UsageError, match=problem):
        with_places(Dataset.from_list(rows), 8, "pairs.jsonl")


def test_two_steps_of_dpo_are_saved_and_say_the_same_when_loaded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = pairs(tmp_path / "pairs.jsonl"), tmp_path / "policy"
    assert preference_data(str(data)).prompts[0] != preference_data(str(data)).prompts[1]  # told by their molecules
    command = ["dpo", str(data), "--model_name_or_path", str(folder), "--output_dir", str(out), "--max_steps", "2"]
    command += ["--per_device_train_batch_size", "2", "--learning_rate", "1e-2", "--use_cpu", "--bf16", "False"]
    command += ["--held_out_prompts", "0", "--dtype", "float32", "--logging_steps", "1", "--seed", "3"]
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
    best = BestOfN(BestOfNPlan(None, sampling, 4, SelectionSpec(rubric="membrane_permeability")), policy, judge.ajudge)  # type: ignore[arg-type]
    plan = PreferencePlan(
        None,  # type: ignore[arg-type]
        sampling,
        1,
        "general",
        hot=1.2,
        rule=rule,
        molecules=True,
    )
    pairs_of = Preferences(plan, policy, judge.ajudge)
    results, rows = [], []
    for i, smiles in enumerate(SMILES[:4]):
        asked = {"prompt": "Does <mol> pass a membrane?", "molecules": [smiles]}
        row = prompt_row(asked, f"row {i + 1}", i + 1, Columns(), Path())
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
    command += ["--per_device_train_batch_size", "2", "--use_cpu", "--bf16", "False", "--held_out_prompts", "0"]
    assert main([*command, "--dtype", "float32"]) == 0
    assert asyncio.run(_first_answer(folder, str(out))) == asyncio.run(_first_answer(folder, str(out)))


async def _first_answer(folder: Path, adapter: str) -> str:
    policy = EnginePolicy(load_engine(EngineConfig(str(folder), adapter=adapter, dtype="float32")))
    row = prompt_row({"prompt": "<mol>?", "molecules": ["CCO"]}, "here", 1, Columns(), Path())
    (answer,) = await policy.sample(row.prompt, Sampling(8), [0])
    policy.close()
    return answer.text
