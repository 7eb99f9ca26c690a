"""Several judgments of one comparison, told apart by their sample index; index 0 keeps its cached results."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Judgment, UsageError
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.recording.ledger import Ledger
from flex_judge.judges.engines.recording.recording import RecordingEngine
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.server.schemas import ComparisonRow, build_schemas, validate_request

SINGLE = Comparison.of("How high?", "a tree", id="c")
BATCH = Comparison.of("Which?", "one", "two", "three", rubric="mllm_judge_batch", id="b")


def score_at_random(prompt: str, sampling: Sampling) -> str:
    """Write the sample index as reasoning, and score at random, seeded by it and the prompt."""
    if sampling.stop == ("</think>",):
        return f"{sampling.sample_index}</think>"
    random = Random(f"{prompt.partition('<think>')[0]}/{sampling.sample_index}")
    count = 3 if "[Assistant 3" in prompt else 1
    return "".join(f"<answer>{score}</answer>" for score in random.sample(range(1, 11), count))


def judge_samples(comparison: Comparison, *sample_indices: int, votes: int = 1, **rest: object) -> list[Judgment]:
    judge = FlexJudge(ScriptedEngine(score_at_random), JudgeSettings(100, 90, votes=votes, **rest))  # type: ignore[arg-type]
    return judge.judge([replace(comparison, sample_index=sample_index) for sample_index in sample_indices])


def test_sample_indices_have_different_votes() -> None:
    first, second, again = judge_samples(SINGLE, 0, 1, 1, votes=4)
    assert [vote.reasoning for vote in first.votes] == ["0", "1", "2", "3"]
    assert [vote.reasoning for vote in second.votes] == ["4", "5", "6", "7"]
    assert again == second


@pytest.mark.parametrize("order", ["as_given", "random", "both", "rotations"])
@pytest.mark.parametrize("comparison", [SINGLE, BATCH], ids=["single", "batch"])
def test_single_votes_equal_the_votes_of_one_judgment(comparison: Comparison, order: str) -> None:
    (together,) = judge_samples(comparison, 0, votes=6, order=order)
    apart = judge_samples(comparison, *range(6), order=order)
    assert [vote for judgment in apart for vote in judgment.votes] == list(together.votes)


async def test_ledger_distinguishes_sample_indices(tmp_path: Path) -> None:
    engine = RecordingEngine(ScriptedEngine(score_at_random), Ledger(tmp_path / "l.sqlite"))
    single_vote_judge, four_vote_judge = (FlexJudge(engine, JudgeSettings(100, 90, votes=votes)) for votes in (1, 4))
    together = await four_vote_judge.ajudge(SINGLE)
    computed = engine.misses
    apart = [await single_vote_judge.ajudge(replace(SINGLE, sample_index=sample_index)) for sample_index in range(4)]
    assert engine.misses == computed
    assert [judgment.votes[0] for judgment in apart] == list(together.votes)
    await single_vote_judge.ajudge(replace(SINGLE, sample_index=4))
    assert engine.misses > computed
    engine.close()


def test_first_sample_keeps_its_digest_and_others_differ() -> None:
    assert SINGLE.digest == "2acc41f4c6455f1a36366aaf6dc566e88bd5bfb620996294ab0c663e56c1c338"
    digests = {replace(SINGLE, sample_index=sample_index).digest for sample_index in range(5)}
    assert len(digests) == 5
    assert SINGLE.digest in digests
    assert replace(SINGLE, sample_index=3).prompt_digest == SINGLE.prompt_digest


def test_every_sample_index_has_its_own_key() -> None:
    judge = FlexJudge(ScriptedEngine(score_at_random))
    keys = [judge.compute_key(replace(SINGLE, sample_index=sample_index)) for sample_index in range(5)]
    assert len(set(keys)) == 5
    assert judge_samples(SINGLE, 2)[0].provenance["key"] != judge_samples(SINGLE, 0)[0].provenance["key"]


def test_sample_index_survives_reordering_and_pickling() -> None:
    comparison = Comparison.of("q", "a", "b", sample_index=7)
    assert comparison.swap_responses().sample_index == comparison.permute_responses((1, 0)).sample_index == 7
    assert pickle.loads(pickle.dumps(comparison)).sample_index == 7


@pytest.mark.parametrize("sample_index", [-1, 65536])
def test_sample_index_out_of_range_is_rejected(sample_index: int) -> None:
    with pytest.raises(UsageError, match=f"sample_index must be from 0 to 65535, not {sample_index}"):
        Comparison.of("q", "a", sample_index=sample_index)


def test_service_validates_the_sample_index() -> None:
    row = {"prompt": "q", "responses": ["a"], "sample_index": 3}
    assert validate_request(ComparisonRow, row).sample_index == 3
    with pytest.raises(FieldError, match="sample_index"):
        validate_request(ComparisonRow, row | {"sample_index": "3"})
    assert build_schemas()["ComparisonRow"]["properties"]["sample_index"]["anyOf"][0]["maximum"] == 65535
