"""Molecules in judge and policy: prompts, votes, orders and ledger on a model with tiny weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mol_llama as tiny
import pytest

from flex_judge.alignment.policies.engine import EnginePolicy
from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Status
from flex_judge.judges.engines import EngineConfig, Sampling, load_engine
from flex_judge.judges.errors import EngineUnavailableError
from flex_judge.judges.media.opening import make_molecule
from flex_judge.judges.protocol.prompts import build_judge_turns
from flex_judge.judges.rubrics import load_rubric

pytest.importorskip("rdkit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(tmp_path_factory.mktemp("mol") / "model")


@pytest.fixture(scope="module")
def judge(folder: Path) -> Iterator[FlexJudge]:
    engine = load_engine(EngineConfig(str(folder), dtype="float32"))  # in half precision, replies depend on the batch
    judge = FlexJudge(engine, JudgeSettings(max_think_tokens=24, temperature=0.0))
    yield judge
    judge.close()


def make_comparison(smiles: str, *responses: Any, id: str = "") -> Comparison:
    parts = [
        {"type": "text", "text": "Is "},
        {"type": "molecule", "smiles": smiles},
        {"type": "text", "text": " soluble in water?"},
    ]
    return Comparison.of([{"role": "user", "content": parts}], *(responses or ("Yes.",)), id=id)


def test_checkpoint_loads_its_bundled_adapter_in_transformers(judge: FlexJudge) -> None:
    assert judge.engine.name == "transformers"
    assert "+adapter@" in judge.engine.model_id
    assert judge.engine.profile.name == "flex-mol-llama"


def test_judge_sees_the_molecule_instead_of_its_smiles(judge: FlexJudge) -> None:
    judgments = [judge.judge([make_comparison(smiles)])[0] for smiles in (tiny.ASPIRIN, tiny.CAFFEINE, tiny.WATER)]
    assert len({judgment.expected_scores for judgment in judgments}) == 3
    rubric = load_rubric("general")
    sizes = [
        judge.renderer.render(build_judge_turns(make_comparison(smiles), rubric)).length
        for smiles in (tiny.ASPIRIN, tiny.WATER)
    ]
    without = judge.renderer.render(build_judge_turns(Comparison.of("Is  soluble in water?", "Yes."), rubric)).length
    assert sizes[0] == sizes[1] == without + tiny.QUERIES  # independent of its size


def test_judgments_match_alone_and_in_a_batch(judge: FlexJudge) -> None:
    comparisons = [
        make_comparison(tiny.ASPIRIN, "Yes.", id="a"),
        make_comparison(tiny.WATER, "It is water.", "No.", id="b"),
        Comparison.of("What is 2 + 3?", "5", id="c"),
        make_comparison(
            tiny.SALT, [{"type": "molecule", "smiles": tiny.CAFFEINE}, {"type": "text", "text": "?"}], id="d"
        ),
    ]
    together = judge.judge(comparisons)
    assert [judgment.id for judgment in together] == ["a", "b", "c", "d"]
    for judgment, comparison in zip(together, comparisons, strict=True):
        alone = judge.judge([comparison])[0]
        assert (alone.scores, alone.reasoning) == (judgment.scores, judgment.reasoning)
        assert judgment.scores is not None  # by a forced answer


def test_votes_orders_and_ledger_work_with_molecules(folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_think_tokens": 8, "votes": 3, "order": "both", "temperature": 0.8}
    ledger = str(tmp_path / "ledger")
    first = FlexJudge.from_pretrained(str(folder), ledger=ledger, **settings)
    pair = make_comparison(tiny.CAFFEINE, "Yes.", "No.")
    (judgment,) = first.judge([pair])
    first.close()
    assert len(judgment.votes) >= 4
    assert {vote.order for vote in judgment.votes} == {(0, 1), (1, 0)}
    again = FlexJudge.from_pretrained(str(folder), ledger=ledger, **settings)
    assert again.judge([pair])[0] == judgment
    assert again.judge([make_comparison(tiny.WATER, "Yes.", "No.")])[0] != judgment
    again.close()


def test_invalid_smiles_is_named_and_does_not_block_others(judge: FlexJudge) -> None:
    bad, good = judge.judge([make_comparison("C1CC", id="bad"), make_comparison(tiny.WATER, id="good")])
    assert bad.status == Status.INVALID_INPUT
    assert "molecule C1CC: RDKit cannot parse it" in bad.votes[0].detail
    assert good.scores is not None


def test_placeholder_in_user_text_is_plain_text(judge: FlexJudge) -> None:
    plain = judge.judge([Comparison.of("What is <mol>?", "<mol><mol>")])[0]
    assert plain.status.is_final
    ids = judge.renderer.encode_as_plain_text("<mol>")
    assert len(ids) > 1
    assert judge.engine.tokenizer.convert_tokens_to_ids("<mol>") not in ids


def test_policy_answers_depend_on_the_molecule(folder: Path) -> None:
    policy = EnginePolicy(load_engine(EngineConfig(str(folder))))
    prompts = [make_comparison(smiles).prompt for smiles in (tiny.ASPIRIN, tiny.WATER)]

    async def sample_all() -> list[list[Any]]:
        sampling = Sampling(12, temperature=0.9)
        return [list(await policy.sample(prompt, sampling, range(4))) for prompt in prompts]

    first, second = asyncio.run(sample_all())
    assert len({answer.text for answer in first}) > 1
    assert [answer.text for answer in first] != [answer.text for answer in second]
    policy.close()


def test_vllm_is_rejected_for_molecules(folder: Path) -> None:
    pytest.importorskip("vllm")
    with pytest.raises(EngineUnavailableError, match=r"does not support molecules.*use --engine transformers"):
        load_engine(EngineConfig(str(folder), "vllm"))


def test_smiles_and_molecule_keys_are_equivalent() -> None:
    first = Comparison.of([{"role": "user", "content": [{"type": "molecule", "smiles": "CCO"}]}], "x")
    second = Comparison.of([{"role": "user", "content": [{"type": "molecule", "molecule": "CCO"}]}], "x")
    third = Comparison.of([{"role": "user", "content": [make_molecule("CCO")]}], "x")
    assert first.digest == second.digest == third.digest
