"""Both real engines on the embedded model: they judge, and their judgments agree."""

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


def load_judge(engine: str) -> FlexJudge:
    # In bfloat16, rounding makes a reply depend on the other requests of its batch.
    return FlexJudge(
        load_engine(EngineConfig("smollm2-135m", engine, "float32", max_model_len=1024, max_batch=16)), SETTINGS
    )


@pytest.fixture(scope="module")
def vllm_judge() -> Iterator[FlexJudge]:
    judge = load_judge("vllm")
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def hf_judge() -> Iterator[FlexJudge]:
    judge = load_judge("transformers")
    yield judge
    judge.close()


@pytest.mark.slow
def test_greedy_judgments_match_on_both_engines(vllm_judge: FlexJudge, hf_judge: FlexJudge) -> None:
    vllm_judgments, hf_judgments = vllm_judge.judge([*COMPARISONS, *PAIRS]), hf_judge.judge([*COMPARISONS, *PAIRS])
    assert [j.status for j in vllm_judgments] == [Status.OK] * 16
    assert [j.scores for j in vllm_judgments] == [j.scores for j in hf_judgments]
    assert [j.reasoning for j in vllm_judgments] == [j.reasoning for j in hf_judgments]
    for a, b in zip(vllm_judgments, hf_judgments, strict=True):
        assert a.expected_scores == pytest.approx(b.expected_scores, abs=0.02)
        assert a.model == b.model
    assert all(1 <= s <= 5 for j in vllm_judgments[:12] for s in j.expected_scores or (0,))


@pytest.mark.slow
def test_candidates_of_a_question_share_the_prefix_cache(vllm_judge: FlexJudge) -> None:
    candidates = [Comparison.of("What is 7 + 8?", f"It is {n}.", rubric="correctness", id=str(n)) for n in range(8)]
    for judgment in vllm_judge.judge(candidates)[1:]:
        assert judgment.usage.cached_tokens > judgment.usage.prompt_tokens / 2


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm_judge", "hf_judge"])
def test_engine_stops_as_requested_and_reports_the_reason(engine: str, request: pytest.FixtureRequest) -> None:
    judge: FlexJudge = request.getfixturevalue(engine)
    prompt = judge.renderer.render([Turn("user", (Span("What is the capital of France?"),))]).token_ids

    async def run() -> None:
        cut = await judge.engine.generate(prompt, Sampling(3))
        assert (len(cut.token_ids), cut.finish_reason) == (3, "length")
        complete = await judge.engine.generate(prompt, Sampling(120))
        assert complete.finish_reason == "eos"
        assert "<|im_end|>" not in complete.text
        word = complete.text.split()[1]
        stopped = await judge.engine.generate(prompt, Sampling(120, stop=(word,)))
        assert stopped.finish_reason == "stop"
        assert word in stopped.text
        assert len(stopped.token_ids) < len(complete.token_ids)
        digit, *_ = judge.renderer.encode_as_plain_text("7")
        constrained = await judge.engine.generate(
            prompt, Sampling(8, regex="[0-9]</answer>", logprob_token_ids=(digit,))
        )
        assert constrained.text[0].isdigit()
        assert constrained.text.endswith("</answer>")
        assert len(constrained.logprobs) == len(constrained.token_ids)
        assert constrained.logprobs[0][digit] <= 0

    asyncio.run(run())


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm_judge", "hf_judge"])
def test_samples_differ_at_nonzero_temperature(engine: str, request: pytest.FixtureRequest) -> None:
    judge: FlexJudge = request.getfixturevalue(engine)
    prompt = judge.renderer.render([Turn("user", (Span("Name a colour."),))]).token_ids

    async def run() -> set[str]:
        sampling = Sampling(8, temperature=1.0, top_p=0.95)
        return {g.text for g in await asyncio.gather(*(judge.engine.generate(prompt, sampling) for _ in range(8)))}

    assert len(asyncio.run(run())) > 1


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["vllm_judge", "hf_judge"])
def test_seeded_sample_is_independent_of_its_batch(engine: str, request: pytest.FixtureRequest) -> None:
    policy = EnginePolicy(request.getfixturevalue(engine).engine)
    short, seeded = [Message("user", "Name a colour.")], Sampling(8, 1.0, 0.95, seed=5)
    # More tokens than vllm computes in one step, so that it computes some of these prompts in chunks.
    long = [[Message("user", f"{i}" + " river stone market window" * 120)] for i in range(6)]

    async def sample_in_a_batch() -> list[list[Completion]]:
        crowd = [policy.sample(prompt, seeded, [0]) for prompt in long]
        return await asyncio.gather(*crowd, policy.sample(short, Sampling(4, 1.0), range(2)), sample_alone([4, 1]))

    async def sample_alone(draws: Sequence[int]) -> list[Completion]:
        return await policy.sample(short, seeded, draws)

    six = asyncio.run(sample_alone(range(6)))
    assert len({c.text for c in six}) > 3
    first, again = asyncio.run(sample_in_a_batch()), asyncio.run(sample_in_a_batch())
    assert first[-1] == again[-1] == [six[4], six[1]]
    assert first[:6] == again[:6]
