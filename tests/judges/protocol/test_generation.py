"""Generation of one reply: budget forcing, answer-first, options, listwise verdicts and context limits."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from lazy import lazy

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, Judgment, Status
from flex_judge.judges.engines import Generation, Sampling
from flex_judge.judges.engines.scripted import CHATML, Script, ScriptedEngine, build_byte_tokenizer
from flex_judge.judges.media.prepared import PreparedMedia
from flex_judge.judges.models.profiles import PROFILES

AddedToken, Tokenizer, decoders, models, pre_tokenizers = lazy(
    "tokenizers", "AddedToken", "Tokenizer", "decoders", "models", "pre_tokenizers"
)
PreTrainedTokenizerFast = lazy("transformers", "PreTrainedTokenizerFast")

SETTINGS = JudgeSettings(max_think_tokens=100, max_answer_tokens=60)
SINGLE = Comparison.of("What is 2 + 3?", "It is 5.", id="one")
PAIR = Comparison.of("What is 2 + 3?", "It is 5.", "It is 6.", id="two")
BATCH = Comparison.of("Rank them.", "a", "b", "c", "d", "e", rubric="mllm_judge_batch")
IMAGES = Comparison.of("A cat.", "one", "two", rubric="genai_image")


def make_engine(thought: str, answer: str, **options: Any) -> ScriptedEngine:
    return ScriptedEngine(lambda _, sampling: thought if sampling.stop == ("</think>",) else answer, **options)


def judge_one(engine: ScriptedEngine, comparison: Comparison = SINGLE, **settings: Any) -> Judgment:
    return FlexJudge(engine, replace(SETTINGS, **settings)).judge([comparison])[0]


def script_counting_waits(prompt: str, sampling: Sampling) -> str:
    """End the thinking at once after each "Wait", and count them."""
    if sampling.stop == ("</think>",):
        return f" Thought {prompt.rpartition('assistant')[2].count('Wait')}.</think>"
    return "9</answer>" if sampling.regex else "<answer>9</answer>"


@pytest.mark.parametrize("num_waits", [0, 1, 2, 4])
def test_budget_forcing_appends_wait_num_waits_times(num_waits: int) -> None:
    engine = ScriptedEngine(script_counting_waits)
    judgment = judge_one(engine, num_waits=num_waits)
    thought = "Wait".join(f" Thought {k}." for k in range(num_waits + 1))
    assert (judgment.scores, judgment.votes[0].forced_answer, judgment.votes[0].num_waits) == ((9,), None, num_waits)
    assert judgment.reasoning == thought.strip()
    assert len(engine.requests) == num_waits + 2
    assert engine.requests[-1][0] == engine.requests[0][0] + thought + "</think>"


def test_budget_forcing_applies_to_thinking_without_a_closing_tag() -> None:
    engine = ScriptedEngine(lambda p, s: "9</answer>" if s.regex else "hm" if "Wait" not in p else " no")
    judgment = judge_one(engine, num_waits=2)
    assert (judgment.scores, judgment.votes[0].forced_answer, judgment.votes[0].num_waits) == ((9,), "early_end", 2)
    assert judgment.reasoning == "hmWait noWait no"


def test_budget_forcing_stays_within_the_thinking_budget() -> None:
    engine = ScriptedEngine(lambda p, s: "7</answer>" if s.regex else "</think>" if "Wait" not in p else "so " * 100)
    judgment = judge_one(engine, num_waits=3)
    assert (judgment.scores, judgment.votes[0].forced_answer, judgment.votes[0].num_waits) == ((7,), "budget", 1)
    prompt = len(engine.given[0][0])
    assert [len(ids) - prompt + sampling.max_tokens for ids, sampling in engine.given[:2]] == [100, 100]
    assert engine.requests[-1][0].endswith("so " * 32 + "\n</think><answer>")


def test_no_wait_is_appended_without_budget_left_to_think() -> None:
    backend = Tokenizer.from_str(build_byte_tokenizer().backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    ends = {12: (0, None), 15: (0, None), 16: (1, "budget"), 26: (1, "budget"), 27: (1, None), 31: (2, "budget")}
    for budget in range(12, 40):  # the thought has 11 tokens, its end has one and "Wait" has four
        engine = ScriptedEngine(script_counting_waits)
        engine.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="<|im_end|>", chat_template=CHATML
        )
        judgment = judge_one(engine, num_waits=5, max_think_tokens=budget)
        prompt = len(engine.given[0][0])
        thinking = [(len(ids) - prompt, s.max_tokens) for ids, s in engine.given if s.stop == ("</think>",)]
        assert all(left > 0 and spent + left == budget for spent, left in thinking)
        assert judgment.scores == (9,)
        if budget in ends:
            assert (judgment.votes[0].num_waits, judgment.votes[0].forced_answer) == ends[budget], budget


class LateStop(ScriptedEngine):
    """Engine that stops a few characters after the stop string, because its last token extends past it."""

    def __init__(self, script: Script, late: int) -> None:
        super().__init__(script)
        self.late = late

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        generation = await super().generate(prompt_token_ids, replace(sampling, stop=()))
        ends = [generation.text.index(s) + len(s) + self.late for s in sampling.stop if s in generation.text]
        if not ends or ends[0] > len(generation.token_ids):
            return generation
        return replace(
            generation, text=generation.text[: ends[0]], token_ids=generation.token_ids[: ends[0]], finish_reason="stop"
        )


@pytest.mark.parametrize("late", [0, 1, 8, 17])
def test_text_after_a_late_stop_is_dropped_before_wait(late: int) -> None:
    def script(prompt: str, _: Sampling) -> str:
        reply = prompt.rpartition("assistant\n<think>\n")[2]
        if "</think>" not in reply:
            return "One.</think><answer>10</answer>" if "Wait" not in reply else " Two.</think><answer>3</answer>"
        return "</think><answer>3</answer>".removeprefix(reply[reply.index("</think>") :])

    judgment = judge_one(LateStop(script, late), num_waits=1)
    assert (judgment.scores, judgment.reasoning, judgment.votes[0].num_waits) == ((3,), "One.Wait Two.", 1)


def make_answer_first_engine(answer: str, thought: str = "It is right.</think>", **options: Any) -> ScriptedEngine:
    """Make an engine for a judge that answers before it reasons."""
    return ScriptedEngine(lambda _, s: thought if s.stop == ("</think>",) else f"{answer}<think>\n", **options)


def test_answer_first_reply_is_parsed() -> None:
    engine = make_answer_first_engine("<answer>9</answer><answer>2</answer>")
    judgment = judge_one(engine, PAIR, reason_first=False)
    assert (judgment.scores, judgment.expected_scores, judgment.votes[0].forced_answer) == ((9, 2), (9, 2), None)
    assert judgment.reasoning == "It is right."
    (first, _), (second, _) = engine.requests
    assert "Before thinking, clearly provide your evaluation scores" in first
    assert first.endswith("<|im_start|>assistant\n")
    assert second == first + "<answer>9</answer><answer>2</answer><think>"


@pytest.mark.parametrize("thought", ["<answer>1</answer></think>", "</think><answer>1</answer>", "x" * 300])
def test_answer_first_ignores_text_after_the_thinking(thought: str) -> None:
    judgment = judge_one(make_answer_first_engine("<answer>9</answer>", thought), reason_first=False)
    assert (judgment.status, judgment.scores, len(judgment.votes)) == (Status.OK, (9,), 1)


def test_answer_first_reply_that_starts_thinking_gets_a_forced_answer() -> None:
    def script(_: str, sampling: Sampling) -> str:
        if sampling.regex:
            return "4</answer>"
        return "Fine.</think><answer>8</answer>" if sampling.stop == ("</think>",) else "<think>\nHm.</think>"

    engine = ScriptedEngine(script)
    judgment = judge_one(engine, reason_first=False)
    assert (judgment.scores, judgment.expected_scores) == ((4,), (4,))
    assert (judgment.votes[0].forced_answer, judgment.reasoning) == ("no_answer", "Fine.")
    assert engine.requests[-1][0] == engine.requests[0][0] + "<answer>4</answer><think>\n"


def test_answer_first_without_forcing_may_be_unparseable() -> None:
    judgment = judge_one(make_answer_first_engine("I like it. "), reason_first=False, forced_answer=False)
    assert (judgment.status, judgment.scores, judgment.reasoning) == (Status.UNPARSEABLE, None, "It is right.")
    rambling = ScriptedEngine(lambda _, s: "well, " * 100)
    assert judge_one(rambling, reason_first=False, forced_answer=False).status == Status.TRUNCATED


def test_thinking_that_starts_in_the_think_open_token_is_kept() -> None:
    def script(prompt: str, _: Sampling) -> str:
        reply = "<answer>9</answer><think>It is right.</think>"
        return reply.removeprefix(prompt.rpartition("<|im_start|>assistant\n")[2])

    judgment = judge_one(LateStop(script, late=5), reason_first=False)
    assert (judgment.scores, judgment.reasoning) == ((9,), "It is right.")


@pytest.mark.parametrize(
    ("option", "choice", "shares"),
    [
        ("[[A>B]]", "A>B", (1, 0)),
        ("[[B>A]]", "B>A", (0, 1)),
        ("[[A=B=Good]]", "A=B=Good", (0.5, 0.5)),
        ("[[A=B=Bad]]", "A=B=Bad", (0.5, 0.5)),
    ],
)
def test_judge_chooses_one_of_four_options(option: str, choice: str, shares: tuple[float, ...]) -> None:
    engine = make_engine("Hm.</think>", f"<answer>{option}</answer>")
    judgment = judge_one(engine, IMAGES)
    assert "[Image A]\none\n\n[Image B]\ntwo<|im_end|>" in engine.requests[0][0]
    assert (judgment.choice, judgment.scores, judgment.expected_scores) == (choice, shares, shares)
    assert judgment.preferred == {1: 0, 0: 1}.get(shares[0])


def test_missing_option_is_forced_with_its_grammar() -> None:
    engine = make_engine("so " * 100, "[[B>A]]</answer>")
    judgment = judge_one(engine, IMAGES)
    assert (judgment.choice, judgment.votes[0].forced_answer) == ("B>A", "budget")
    _, sampling = engine.requests[-1]
    allowed = [f"[[{o}]]</answer>" for o in ("A>B", "B>A", "A=B=Good", "A=B=Bad", "C>A", "A=B")]
    assert [bool(re.fullmatch(sampling.regex or "", text)) for text in allowed] == [True] * 4 + [False] * 2
    assert sampling.stop == ("</answer>",)


def test_listwise_verdict_has_one_score_per_response() -> None:
    answer = "".join(f"<answer>{s}</answer>" for s in (7, 3, 10, 1, 5))
    for engine in (make_engine("Hm.</think>", answer), make_engine("so " * 100, answer.removeprefix("<answer>"))):
        judgment = judge_one(engine, BATCH)
        assert judgment.scores == judgment.expected_scores == (7, 3, 10, 1, 5)
        assert judgment.preferred == 2
    assert "[Assistant 5's Answer]\ne" in engine.requests[0][0]


def test_without_forcing_a_missing_listwise_score_is_unparseable() -> None:
    judgment = judge_one(make_engine("Hm.</think>", "<answer>7</answer>" * 4), BATCH, forced_answer=False)
    assert (judgment.status, judgment.votes[0].detail) == (Status.UNPARSEABLE, "4 answers for 5 responses")


RAMBLE = "so " * 200


def script_filling_budget(_: str, sampling: Sampling) -> str:
    """Use all available tokens, except under a grammar."""
    if not sampling.regex:
        return RAMBLE
    more = sampling.regex.count("<answer>")
    return "[[A=B=Good]]</answer>" if "A=B" in sampling.regex else "10</answer>" + "<answer>10</answer>" * more


@pytest.mark.parametrize("comparison", [SINGLE, PAIR, BATCH, IMAGES], ids=["single", "pair", "batch", "options"])
@pytest.mark.parametrize("changes", [{}, {"num_waits": 3}, {"reason_first": False}, {"order": "both"}], ids=str)
def test_admitted_prompts_never_exceed_the_context(comparison: Comparison, changes: dict[str, Any]) -> None:
    def script_long_requests(prompt: str, sampling: Sampling) -> str:
        """End the thinking late and add words to the answer, so that every request has its maximum length."""
        if sampling.stop == ("</think>",):
            return "so " * ((sampling.max_tokens - 8) // 3) + "</think>"
        return script_filling_budget(prompt, sampling)

    def run(script: Script, room: int) -> tuple[Status, list[int]]:
        engine = ScriptedEngine(script, max_model_len=room)
        status = judge_one(engine, comparison, **changes).status
        return status, [len(ids) + sampling.max_tokens for ids, sampling in engine.given]

    longest = 0
    for script in (script_filling_budget, script_long_requests):
        smallest_room = bisect_left(range(4000), True, key=lambda room: run(script, room)[0] == Status.OK)
        assert run(script, smallest_room - 1) == (Status.OVERLONG, [])
        status, lengths = run(script, smallest_room)
        assert status == Status.OK
        assert max(lengths) <= smallest_room
        longest = max(longest, *lengths)
    # With budget forcing, the judge reaches the end of its budget and then gives no answer.
    assert longest > smallest_room - (60 if "num_waits" not in changes else 140)


def test_placeholder_that_the_judge_writes_is_no_medium() -> None:
    engine = make_engine("It shows <|image_pad|>.</think>", "<answer>7</answer>", profile=PROFILES["flex-vl"])
    judgment = judge_one(engine)
    assert judgment.scores == (7.0,)
    assert "It shows" in judgment.reasoning


def test_prompt_too_long_in_one_order_is_overlong() -> None:
    """`.` and a line break are one token, so a text that ends in `.` is one token shorter before a header."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*alphabet, ".Ċ"])}, merges=[(".", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])

    def status(order: str, room: int) -> tuple[Status, int]:
        engine = make_engine("Hm.</think>", "<answer>9</answer><answer>2</answer>", max_model_len=room)
        engine.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHATML)
        judgment = judge_one(engine, Comparison.of("q", "a.", "b"), order=order)
        return judgment.status, len(engine.requests)

    smallest_room = bisect_left(range(4000), True, key=lambda room: status("as_given", room)[0] == Status.OK)
    assert status("both", smallest_room) == (Status.OVERLONG, 0)
    assert status("both", smallest_room + 1) == (Status.OK, 4)
