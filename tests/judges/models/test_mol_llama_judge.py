"""Molecules through the judge and the policy: the usual engines, prompts, votes and verdicts, over tiny weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mol_llama as tiny
import pytest

from flex_judge.alignment.policies.engine import EnginePolicy
from flex_judge.judges import Comparison, FlexJudge, JudgeSettings
from flex_judge.judges.engines import EngineConfig, Sampling, load_engine
from flex_judge.judges.errors import EngineUnavailableError, UsageError
from flex_judge.judges.media.opening import make_molecule
from flex_judge.judges.protocol.prompts import build_judge_turns
from flex_judge.judges.rubrics import load_rubric

pytest.importorskip("rdkit")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_tiny_model(tmp_path_factory.mktemp("mol") / "model")


@pytest.fixture(scope="module")
def judge(folder: Path) -> Iterator[FlexJudge]:
    engine = load_engine(EngineConfig(str(folder), dtype="float32"))  # in half precision a batch is not quite its rows
    made = FlexJudge(engine, JudgeSettings(max_think_tokens=24, temperature=0.0))
    yield made
    made.close()


def asked(smiles: str, *responses: Any, id: str = "") -> Comparison:
    parts = [
        {"type": "text", "text": "Is "},
        {"type": "molecule", "smiles": smiles},
        {"type": "text", "text": " soluble in water?"},
    ]
    return Comparison.of([{"role": "user", "content": parts}], *(responses or ("Yes.",)), id=id)


def test_a_checkpoint_brings_its_adapter_along_and_runs_in_transformers(judge: FlexJudge) -> None:
    assert judge.engine.name == "transformers"
    assert "+adapter@" in judge.engine.model_id
    assert judge.engine.profile.name == "flex-mol-llama"


def test_the_judge_sees_the_molecule_and_reads_no_smiles(judge: FlexJudge) -> None:
    judgments = [judge.judge([asked(one)])[0] for one in (tiny.ASPIRIN, tiny.CAFFEINE, tiny.WATER)]
    assert len({judgment.expected_scores for judgment in judgments}) == 3
    rubric = load_rubric("general")
    sizes = [judge.renderer.render(build_judge_turns(asked(one), rubric)).length for one in (tiny.ASPIRIN, tiny.WATER)]
    without = judge.renderer.render(build_judge_turns(Comparison.of("Is  soluble in water?", "Yes."), rubric)).length
    assert sizes[0] == sizes[1] == without + tiny.QUERIES  # however large it is


def test_what_is_judged_together_is_judged_as_alone(judge: FlexJudge) -> None:
    comparisons = [
        asked(tiny.ASPIRIN, "Yes.", id="a"),
        asked(tiny.WATER, "It is water.", "No.", id="b"),
        Comparison.of("What is 2 + 3?", "5", id="c"),
        asked(tiny.SALT, [{"type": "molecule", "smiles": tiny.CAFFEINE}, {"type": "text", "text": "?"}], id="d"),
    ]
    together = judge.judge(comparisons)
    assert [one.id for one in together] == ["a", "b", "c", "d"]
    for one, comparison in zip(together, comparisons, strict=True):
        alone = judge.judge([comparison])[0]
        assert (alone.scores, alone.reasoning) == (one.scores, one.reasoning)
        assert one.scores is not None  # made to answer, in the form of its scale


def test_votes_orders_and_the_ledger_are_as_for_any_judge(folder: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"max_think_tokens": 8, "votes": 3, "order": "both", "temperature": 0.8}
    ledger = str(tmp_path / "ledger")
    first = FlexJudge.from_pretrained(str(folder), ledger=ledger, **settings)
    pair = asked(tiny.CAFFEINE, "Yes.", "No.")
    (judgment,) = first.judge([pair])
    first.close()
    assert len(judgment.votes) >= 4
    assert {vote.order for vote in judgment.votes} == {(0, 1), (1, 0)}
    again = FlexJudge.from_pretrained(str(folder), ledger=ledger, **settings)
    assert again.judge([pair])[0] == judgment
    assert again.judge([asked(tiny.WATER, "Yes.", "No.")])[0] != judgment
    again.close()


def test_a_wrong_smiles_is_named_and_holds_up_no_other(judge: FlexJudge) -> None:
    stream = judge.stream([asked("C1CC", id="bad"), asked(tiny.WATER, id="good")])
    found = [next(stream)]
    with pytest.raises(UsageError, match="comparison 'bad': molecule C1CC: is no molecule that RDKit can read"):
        next(stream)
    assert [(one.id, one.scores is not None) for one in found] == [("good", True)]


def test_a_placeholder_in_a_text_is_text(judge: FlexJudge) -> None:
    plain = judge.judge([Comparison.of("What is <mol>?", "<mol><mol>")])[0]
    assert plain.status.is_final
    ids = judge.renderer.encode_as_plain_text("<mol>")
    assert len(ids) > 1
    assert judge.engine.tokenizer.convert_tokens_to_ids("<mol>") not in ids


def test_a_policy_answers_questions_about_a_molecule(folder: Path) -> None:
    policy = EnginePolicy(load_engine(EngineConfig(str(folder))))
    prompts = [asked(one).prompt for one in (tiny.ASPIRIN, tiny.WATER)]

    async def sampled() -> list[list[Any]]:
        sampling = Sampling(12, temperature=0.9)
        return [list(await policy.sample(prompt, sampling, range(4))) for prompt in prompts]

    one, other = asyncio.run(sampled())
    assert len({answer.text for answer in one}) > 1
    assert [answer.text for answer in one] != [answer.text for answer in other]
    policy.close()


def test_vllm_is_refused_by_name(folder: Path) -> None:
    pytest.importorskip("vllm")
    with pytest.raises(EngineUnavailableError, match="which sees molecules; take transformers"):
        load_engine(EngineConfig(str(folder), "vllm"))


def test_smiles_and_molecule_say_the_same() -> None:
    first = Comparison.of([{"role": "user", "content": [{"type": "molecule", "smiles": "CCO"}]}], "x")
    second = Comparison.of([{"role": "user", "content": [{"type": "molecule", "molecule": "CCO"}]}], "x")
    third = Comparison.of([{"role": "user", "content": [make_molecule("CCO")]}], "x")
    assert first.digest == second.digest == third.digest
