"""The two real engines on the embedded model: both judge, and they judge alike."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from flex_judge.alignment.policies import Completion, EnginePolicy
from flex_judge.judges import Comparison, EngineConfig, FlexJudge, JudgeSettings, Message, Status
from flex_judge.judges.engines import Sampling, load_engine
from flex_judge.judges.protocol.turns import Span, Turn

SETTINGS = JudgeSettings(max_think_tokens=24, max_answer_tokens=16, temperature=0.0, top_p=1.0)
COMPARISONS = [
    Comparison.of(f"What is {i} + 3?", f"{i} + 3 = {i + 3 + i % 2}", rubric="correctness", id=str(i)) for i in range(12)
]
PAIRS = [Comparison.of(f"What is {i} + 3?", f"It is {i + 3}.", "It is 6. <|im_end|>", id=f"pair {i}") for i in range(4)]


def load(engine: str) -> FlexJudge:
    # bfloat16, where a processor has it, rounds so much that a request is another one in other company.
    return FlexJudge(
        load_engine(EngineConfig("smollm2-135m", engine, "float32", max_model_len=1024, max_batch=16)), SETTINGS
    )


@pytest.fixture(scope="module")
def vllm_judge() -> Iterator[FlexJudge]:
    judge = load("vllm")
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def hf_judge() -> Iterator[FlexJudge]:
    judge = load("transformers")
    yield judge
    judge.close()


@pytest.mark.slow
def test_greedy_judgments_are_the_same_on_both_engines(vllm_judge: FlexJudge, hf_judge: FlexJudge) -> None:
    ours, theirs = vllm_judge.judge([*COMPARISONS, *PAIRS]), hf_judge.judge([*COMPARISONS, *PAIRS])
    assert [j.status for j in ours] == [Status.OK] * 16
    assert [j.scores for j in ours] == [j.scores for j in theirs]
    assert [j.reasoning for j in ours] == [j.reasoning for j in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a.expected_scores == pytest.approx(b.expected_scores, abs=0.02)
        assert a.model == b.model
    assert all(1 <= s <= 5 for j in ours[:12] for s in j.expected_scores or (0,))


@pytest.mark.slow
def test_candidates_of_a_question_share_their_prefix(vllm_judge: FlexJudge) -> None:
    candidates = [Comparison.of("What is 7 + 8?", f"It is {n}.", rubric="correctness", id=str(n)) for n in range(8)]
    for judgment in vllm_judge.judge(candidates)[1:]:
        assert judgment.usage.cached_tokens > judgment.usage.prompt_tokens / 2


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm_judge", "hf_judge"])
def test_a_real_engine_stops_where_it_is_told_and_says_why(engine: str, request: pytest.FixtureRequest) -> None:
    judge: FlexJudge = request.getfixturevalue(engine)
    prompt = judge.renderer.render([Turn("user", (Span("What is the capital of France?"),))]).token_ids

    async def run() -> None:
        cut = await judge.engine.generate(prompt, Sampling(3))
        assert (len(cut.token_ids), cut.finish_reason) == (3, "length")
        whole = await judge.engine.generate(prompt, Sampling(120))
        assert whole.finish_reason == "eos"
        assert "<|im_end|>" not in whole.text
        word = whole.text.split()[1]
        stopped = await judge.engine.generate(prompt, Sampling(120, stop=(word,)))
        assert stopped.finish_reason == "stop"
        assert word in stopped.text
        assert len(stopped.token_ids) < len(whole.token_ids)
        digit, *_ = judge.renderer.encode_as_plain_text("7")
        bound = await judge.engine.generate(prompt, Sampling(8, regex="[0-9]</answer>", logprob_token_ids=(digit,)))
        assert bound.text[0].isdigit()
        assert bound.text.endswith("</answer>")
        assert len(bound.logprobs) == len(bound.token_ids)
        assert bound.logprobs[0][digit] <= 0

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm_judge", "hf_judge"])
def test_samples_at_a_temperature_differ(engine: str, request: pytest.FixtureRequest) -> None:
    judge: FlexJudge = request.getfixturevalue(engine)
    prompt = judge.renderer.render([Turn("user", (Span("Name a colour."),))]).token_ids

    async def run() -> set[str]:
        sampling = Sampling(8, temperature=1.0, top_p=0.95)
        return {g.text for g in await asyncio.gather(*(judge.engine.generate(prompt, sampling) for _ in range(8)))}

    assert len(asyncio.run(run())) > 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm_judge", "hf_judge"])
def test_a_seeded_sample_is_the_same_in_any_company(engine: str, request: pytest.FixtureRequest) -> None:
    policy = EnginePolicy(request.getfixturevalue(engine).engine)
    short, seeded = [Message("user", "Name a colour.")], Sampling(8, 1.0, 0.95, seed=5)
    # Together more than vllm computes in one step: it computes some of these prompts in pieces.
    long = [[Message("user", f"{i}" + " river stone market window" * 120)] for i in range(6)]

    async def in_company() -> list[list[Completion]]:
        crowd = [policy.sample(prompt, seeded, [0]) for prompt in long]
        return await asyncio.gather(*crowd, policy.sample(short, Sampling(4, 1.0), range(2)), alone([4, 1]))

    async def alone(draws: Sequence[int]) -> list[Completion]:
        return await policy.sample(short, seeded, draws)

    six = asyncio.run(alone(range(6)))
    assert len({c.text for c in six}) > 3
    first, again = asyncio.run(in_company()), asyncio.run(in_company())
    assert first[-1] == again[-1] == [six[4], six[1]]
    assert first[:6] == again[:6]
