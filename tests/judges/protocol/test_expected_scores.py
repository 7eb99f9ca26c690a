"""Expected scores of a whole judgment, for every position of the answer among the tokens."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from lazy import lazy

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Judgment
from flex_judge.judges.engines import Generation, Sampling
from flex_judge.judges.engines.scripted import CHATML, Script, ScriptedEngine
from flex_judge.judges.media.prepared import PreparedMedia

AddedToken, Tokenizer, decoders, models, pre_tokenizers = lazy(
    "tokenizers", "AddedToken", "Tokenizer", "decoders", "models", "pre_tokenizers"
)
PreTrainedTokenizerFast = lazy("transformers", "PreTrainedTokenizerFast")

SINGLE = Comparison.of("What is 2 + 3?", "It is 5.")
PAIR = Comparison.of("What is 2 + 3?", "It is 5.", "It is 6.")
IMAGES = Comparison.of("A cat.", "one", "two", rubric="genai_image")
RAMBLE = "so " * 100
Chances = Callable[[str], Mapping[str, float]]
"""Text since the last `<answer>` -> probability of each next byte."""


class UnsureEngine(ScriptedEngine):
    """Scripted engine that reports log-probabilities from the table `chances`."""

    def __init__(self, script: Script, chances: Chances) -> None:
        super().__init__(script)
        self.chances = chances

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        generation = await super().generate(prompt_token_ids, sampling, media)
        ids = [*prompt_token_ids, *generation.token_ids]
        rows = [self._logprobs(ids[:end], sampling) for end in range(len(prompt_token_ids), len(ids))]
        return replace(generation, logprobs=tuple(rows) if sampling.logprob_token_ids else ())

    def _logprobs(self, prefix: list[int], sampling: Sampling) -> dict[int, float]:
        text = self.tokenizer.decode(prefix).rpartition("<answer>")[2]
        chances = {self.tokenizer.encode(byte)[0]: p for byte, p in self.chances(text).items()}
        return {t: math.log(chances[t]) if chances.get(t) else -math.inf for t in sampling.logprob_token_ids}

    @property
    def list_probes(self) -> list[str]:
        """List the prompts of all requests for a single token."""
        return [prompt for prompt, sampling in self.requests if sampling.max_tokens == 1]


def make_engine(
    thought: str, answer: str, chances: Mapping[str, Mapping[str, float]], forced_answer: str = ""
) -> UnsureEngine:
    """Make an engine with chances by preceding text, such as `{"": {"7": 1.0}}`, and an answer for grammars."""

    def script(_: str, sampling: Sampling) -> str:
        return thought if sampling.stop == ("</think>",) else (sampling.regex and forced_answer) or answer

    return UnsureEngine(script, lambda text: chances.get(text, {}))


def judge_one(engine: ScriptedEngine, comparison: Comparison = SINGLE, **settings: Any) -> Judgment:
    return FlexJudge(engine, JudgeSettings(100, 60, **settings)).judge([comparison])[0]


def test_expected_score_and_deviation_follow_the_distribution() -> None:
    engine = make_engine("Hm.</think>", "<answer>7</answer>", {"": {"7": 0.5, "8": 0.3, "4": 0.1, "x": 0.1}})
    judgment = judge_one(engine)
    mean = (7 * 0.5 + 8 * 0.3 + 4 * 0.1) / 0.9
    deviation = math.sqrt((0.5 * (7 - mean) ** 2 + 0.3 * (8 - mean) ** 2 + 0.1 * (4 - mean) ** 2) / 0.9)
    assert (judgment.scores, judgment.expected_scores) == ((7,), (pytest.approx(mean),))
    assert judgment.votes[0].deviations == judgment.spread == (pytest.approx(deviation),)
    assert engine.list_probes == []


ONE_OR_TEN = {"": {"7": 0.6, "1": 0.4}, "1": {"0": 0.75, "<": 0.25}}


def test_ambiguity_between_1_and_10_is_probed_with_one_more_token() -> None:
    engine = make_engine("Hm.</think>", "<answer>7</answer>", ONE_OR_TEN)
    judgment = judge_one(engine)
    assert judgment.expected_scores == (pytest.approx(0.6 * 7 + 0.1 * 1 + 0.3 * 10),)
    assert engine.list_probes == [engine.requests[0][0] + "Hm.</think><answer>1"]
    assert engine.requests[-1][1].regex is None


def test_sampled_and_negligible_branches_are_not_probed() -> None:
    unlikely = make_engine("Hm.</think>", "<answer>10</answer>", ONE_OR_TEN)
    assert judge_one(unlikely).expected_scores == (pytest.approx(0.6 * 7 + 0.1 * 1 + 0.3 * 10),)
    light = make_engine("Hm.</think>", "<answer>7</answer>", {"": {"7": 0.9995, "1": 0.0005}})
    assert judge_one(light).expected_scores == (pytest.approx(7 - 6 * 0.0005),)
    assert unlikely.list_probes == light.list_probes == []


def test_forced_pair_probes_each_score_at_its_position() -> None:
    chances = {"": {"7": 0.5, "1": 0.5}, "1": {"0": 0.5, "<": 0.5}}
    engine = make_engine(RAMBLE, "7</answer><answer>7</answer>", chances)
    judgment = judge_one(engine, PAIR)
    assert (judgment.expected_scores, judgment.votes[0].forced_answer) == ((6.25, 6.25), "budget")
    start = engine.requests[0][0] + RAMBLE[:100] + "\n</think><answer>"
    assert engine.list_probes == [start + "1", start + "7</answer><answer>1"]


def test_answer_first_replies_have_expected_scores() -> None:
    for answer in ("So: <answer>7</answer><think>", "<think>"):
        engine = make_engine("Hm.</think>", answer, ONE_OR_TEN, forced_answer="7</answer>")
        judgment = judge_one(engine, reason_first=False)
        assert judgment.expected_scores == (pytest.approx(0.6 * 7 + 0.1 * 1 + 0.3 * 10),)
        assert len(engine.list_probes) == 1


def test_choice_has_expected_shares() -> None:
    chances = {
        "": {"[": 1.0},
        "[": {"[": 1.0},
        "[[": {"A": 0.7, "B": 0.3},
        "[[A": {">": 0.5, "=": 0.5},
        "[[A=": {"B": 1.0},
    }
    for thought, answer in (("Hm.</think>", "<answer>[[A>B]]</answer>"), (RAMBLE, "[[A>B]]</answer>")):
        judgment = judge_one(make_engine(thought, answer, chances), IMAGES)
        assert (judgment.choice, judgment.scores) == ("A>B", (1, 0))
        assert judgment.expected_scores == (pytest.approx(0.35 + 0.175), pytest.approx(0.3 + 0.175))


def test_expected_shares_are_in_the_comparisons_order() -> None:
    def script(prompt: str, sampling: Sampling) -> str:
        better = "A>B" if "[Image A]\none" in prompt else "B>A"
        return "Hm.</think>" if sampling.stop else f"<answer>[[{better}]]</answer>"

    for order in ("as_given", "both"):
        engine = UnsureEngine(
            script, lambda text: {"[[": {"A": 0.9, "B": 0.1}, "[[A": {">": 1.0}}.get(text, {"[": 1.0})
        )
        judgment = judge_one(engine, IMAGES, order=order)
        assert judgment.choice == "A>B"
        # In reverse order, the option A means the second response.
        assert judgment.expected_scores == (pytest.approx((0.9, 0.1)) if order == "as_given" else (0.5, 0.5))


def test_spread_combines_variance_within_and_between_votes() -> None:
    def script(_: str, sampling: Sampling) -> str:
        return "Hm.</think>" if sampling.stop == ("</think>",) else f"<answer>{4 + 4 * sampling.sample_index}</answer>"

    assert judge_one(ScriptedEngine(script), votes=2).spread == (2,)
    judgment = judge_one(UnsureEngine(script, lambda text: {"3": 0.25, "4": 0.25, "8": 0.25, "9": 0.25}), votes=2)
    assert (judgment.scores, judgment.expected_scores) == ((6,), (6,))
    assert judgment.spread == judgment.votes[0].deviations == (pytest.approx(math.sqrt((9 + 4 + 4 + 9) / 4)),)


def test_without_logprobs_there_are_no_expected_scores() -> None:
    class EngineWithoutLogprobs(ScriptedEngine):
        async def generate(
            self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
        ) -> Generation:
            return replace(await super().generate(prompt_token_ids, sampling, media), logprobs=())

    engine = EngineWithoutLogprobs(
        lambda _, s: "Hm.</think>" if s.stop == ("</think>",) else "<answer>9</answer><answer>1</answer>"
    )
    judgment = judge_one(engine, PAIR)
    assert (judgment.scores, judgment.expected_scores, judgment.spread) == ((9, 1), None, None)


SEAM = "Right.</think><answer>7</answer><answer>3</answer>"


@cache
def build_seam_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer that has every part of SEAM as a token but encodes text byte by byte."""
    pieces = {SEAM[i:j] for i in range(len(SEAM)) for j in range(i + 1, len(SEAM) + 1)}
    tokens = sorted({*pre_tokenizers.ByteLevel.alphabet(), *pieces})
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHATML)


class SeamEngine(ScriptedEngine):
    """Engine that generates SEAM in tokens of any length and stops after the token that ends the thinking."""

    def __init__(self, pieces: Sequence[str]) -> None:
        super().__init__(lambda *_: "")
        self.tokenizer = build_seam_tokenizer()
        self.left = list(pieces)

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        await asyncio.sleep(0)
        text: list[str] = []
        while self.left and not (sampling.stop and "</think>" in "".join(text)):
            text.append(self.left.pop(0))
        likely = {self.tokenizer.convert_tokens_to_ids(t): math.log(p) for t, p in (("6", 0.75), ("8", 0.25))}
        row = {t: likely.get(t, -math.inf) for t in sampling.logprob_token_ids}
        ids = tuple(self.tokenizer.convert_tokens_to_ids(text))
        return Generation("".join(text), ids, "stop" if sampling.stop else "eos", (row,) * len(ids) if row else ())


@given(st.sets(st.integers(1, len(SEAM) - 1)), st.sets(st.sampled_from("73")))
@hypothesis_settings(max_examples=150, deadline=None)
def test_expected_scores_do_not_depend_on_the_tokenization(cuts: set[int], alone: set[str]) -> None:
    cuts |= {edge for score in alone for edge in (SEAM.index(score), SEAM.index(score) + 1)}
    pieces = [SEAM[i:j] for i, j in pairwise([0, *sorted(cuts), len(SEAM)])]
    judgment = judge_one(SeamEngine(pieces), PAIR)
    assert (judgment.scores, judgment.reasoning, judgment.votes[0].forced_answer) == ((7, 3), "Right.", None)
    tokens_of_their_own = "7" in pieces and "3" in pieces
    assert judgment.expected_scores == ((6.5, 6.5) if tokens_of_their_own else None)
