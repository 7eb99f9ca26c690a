"""How one reply of the judge is made: waiting, answering first, options, batches, and how sure it was."""

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

AddedToken, Tokenizer, decoders, models, pre_tokenizers = lazy(
    "tokenizers", "AddedToken", "Tokenizer", "decoders", "models", "pre_tokenizers"
)
PreTrainedTokenizerFast = lazy("transformers", "PreTrainedTokenizerFast")

SETTINGS = JudgeSettings(max_think_tokens=100, max_answer_tokens=60)
SINGLE = Comparison.of("What is 2 + 3?", "It is 5.", id="one")
PAIR = Comparison.of("What is 2 + 3?", "It is 5.", "It is 6.", id="two")
BATCH = Comparison.of("Rank them.", "a", "b", "c", "d", "e", rubric="mllm_judge_batch")
IMAGES = Comparison.of("A cat.", "one", "two", rubric="genai_image")


def saying(thought: str, answer: str, **options: Any) -> ScriptedEngine:
    return ScriptedEngine(lambda _, sampling: thought if sampling.stop == ("</think>",) else answer, **options)


def judged(engine: ScriptedEngine, comparison: Comparison = SINGLE, **settings: Any) -> Judgment:
    return FlexJudge(engine, replace(SETTINGS, **settings)).judge([comparison])[0]


def stubborn(prompt: str, sampling: Sampling) -> str:
    """Ends its thinking at once, however often it is told to wait, counting the times."""
    if sampling.stop == ("</think>",):
        return f" Thought {prompt.rpartition('assistant')[2].count('Wait')}.</think>"
    return "9</answer>" if sampling.regex else "<answer>9</answer>"


@pytest.mark.parametrize("num_waits", [0, 1, 2, 4])
def test_budget_forcing_appends_wait_num_waits_times(num_waits: int) -> None:
    engine = ScriptedEngine(stubborn)
    judgment = judged(engine, num_waits=num_waits)
    thought = "Wait".join(f" Thought {k}." for k in range(num_waits + 1))
    assert (judgment.scores, judgment.votes[0].forced_answer, judgment.votes[0].num_waits) == ((9,), None, num_waits)
    assert judgment.reasoning == thought.strip()
    assert len(engine.requests) == num_waits + 2
    assert engine.requests[-1][0] == engine.requests[0][0] + thought + "</think>"


def test_budget_forcing_applies_to_thinking_without_a_closing_tag() -> None:
    engine = ScriptedEngine(lambda p, s: "9</answer>" if s.regex else "hm" if "Wait" not in p else " no")
    judgment = judged(engine, num_waits=2)
    assert (judgment.scores, judgment.votes[0].forced_answer, judgment.votes[0].num_waits) == ((9,), "early_end", 2)
    assert judgment.reasoning == "hmWait noWait no"


def test_budget_forcing_stays_within_the_thinking_budget() -> None:
    engine = ScriptedEngine(lambda p, s: "7</answer>" if s.regex else "</think>" if "Wait" not in p else "so " * 100)
    judgment = judged(engine, num_waits=3)
    assert (judgment.scores, judgment.votes[0].forced_answer, judgment.votes[0].num_waits) == ((7,), "budget", 1)
    prompt = len(engine.given[0][0])
    assert [len(ids) - prompt + sampling.max_tokens for ids, sampling in engine.given[:2]] == [100, 100]
    assert engine.requests[-1][0].endswith("so " * 32 + "\n</think><answer>")


def test_no_wait_is_appended_without_budget_left_to_think() -> None:
    backend = Tokenizer.from_str(build_byte_tokenizer().backend_tokenizer.to_str())
    backend.add_tokens([AddedToken(t, special=False, normalized=False) for t in ("<think>", "</think>")])
    ends = {12: (0, None), 15: (0, None), 16: (1, "budget"), 26: (1, "budget"), 27: (1, None), 31: (2, "budget")}
    for budget in range(12, 40):  # the thought is 11 tokens, its end one and the wait four
        engine = ScriptedEngine(stubborn)
        engine.tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, eos_token="<|im_end|>", chat_template=CHATML
        )
        judgment = judged(engine, num_waits=5, max_think_tokens=budget)
        prompt = len(engine.given[0][0])
        thinking = [(len(ids) - prompt, s.max_tokens) for ids, s in engine.given if s.stop == ("</think>",)]
        assert all(left > 0 and spent + left == budget for spent, left in thinking)
        assert judgment.scores == (9,)
        if budget in ends:
            assert (judgment.votes[0].num_waits, judgment.votes[0].forced_answer) == ends[budget], budget


class LateStop(ScriptedEngine):
    """Stops some characters after the stop string, as engines do whose last token runs past it."""

    def __init__(self, script: Script, late: int) -> None:
        super().__init__(script)
        self.late = late

    async def generate(
        self, prompt_token_ids: Sequence[int], sampling: Sampling, media: Sequence[PreparedMedia] = ()
    ) -> Generation:
        whole = await super().generate(prompt_token_ids, replace(sampling, stop=()))
        ends = [whole.text.index(s) + len(s) + self.late for s in sampling.stop if s in whole.text]
        if not ends or ends[0] > len(whole.token_ids):
            return whole
        return replace(whole, text=whole.text[: ends[0]], token_ids=whole.token_ids[: ends[0]], finish_reason="stop")


@pytest.mark.parametrize("late", [0, 1, 8, 17])
def test_text_after_a_late_stop_is_dropped_before_wait(late: int) -> None:
    def script(prompt: str, _: Sampling) -> str:
        reply = prompt.rpartition("assistant\n<think>\n")[2]
        if "</think>" not in reply:
            return "One.</think><answer>10</answer>" if "Wait" not in reply else " Two.</think><answer>3</answer>"
        return "</think><answer>3</answer>".removeprefix(reply[reply.index("</think>") :])

    judgment = judged(LateStop(script, late), num_waits=1)
    assert (judgment.scores, judgment.reasoning, judgment.votes[0].num_waits) == ((3,), "One.Wait Two.", 1)


def answering(answer: str, thought: str = "It is right.</think>", **options: Any) -> ScriptedEngine:
    """A judge that answers before it thinks."""
    return ScriptedEngine(lambda _, s: thought if s.stop == ("</think>",) else f"{answer}<think>\n", **options)


def test_answer_first_reply_is_parsed() -> None:
    engine = answering("<answer>9</answer><answer>2</answer>")
    judgment = judged(engine, PAIR, reason_first=False)
    assert (judgment.scores, judgment.expected_scores, judgment.votes[0].forced_answer) == ((9, 2), (9, 2), None)
    assert judgment.reasoning == "It is right."
    (first, _), (second, _) = engine.requests
    assert "Before thinking, clearly provide your evaluation scores" in first
    assert first.endswith("<|im_start|>assistant\n")
    assert second == first + "<answer>9</answer><answer>2</answer><think>"


@pytest.mark.parametrize("thought", ["<answer>1</answer></think>", "</think><answer>1</answer>", "x" * 300])
def test_answer_first_ignores_text_after_the_thinking(thought: str) -> None:
    judgment = judged(answering("<answer>9</answer>", thought), reason_first=False)
    assert (judgment.status, judgment.scores, len(judgment.votes)) == (Status.OK, (9,), 1)


def test_answer_first_reply_that_starts_thinking_gets_a_forced_answer() -> None:
    def script(_: str, sampling: Sampling) -> str:
        if sampling.regex:
            return "4</answer>"
        return "Fine.</think><answer>8</answer>" if sampling.stop == ("</think>",) else "<think>\nHm.</think>"

    engine = ScriptedEngine(script)
    judgment = judged(engine, reason_first=False)
    assert (judgment.scores, judgment.expected_scores) == ((4,), (4,))
    assert (judgment.votes[0].forced_answer, judgment.reasoning) == ("no_answer", "Fine.")
    assert engine.requests[-1][0] == engine.requests[0][0] + "<answer>4</answer><think>\n"


def test_answer_first_without_forcing_may_be_unparseable() -> None:
    judgment = judged(answering("I like it. "), reason_first=False, forced_answer=False)
    assert (judgment.status, judgment.scores, judgment.reasoning) == (Status.UNPARSEABLE, None, "It is right.")
    rambling = ScriptedEngine(lambda _, s: "well, " * 100)
    assert judged(rambling, reason_first=False, forced_answer=False).status == Status.TRUNCATED


def test_thinking_that_starts_in_the_think_open_token_is_kept() -> None:
    def script(prompt: str, _: Sampling) -> str:
        whole = "<answer>9</answer><think>It is right.</think>"
        return whole.removeprefix(prompt.rpartition("<|im_start|>assistant\n")[2])

    judgment = judged(LateStop(script, late=5), reason_first=False)
    assert (judgment.scores, judgment.reasoning) == ((9,), "It is right.")


@pytest.mark.parametrize(
    ("said", "choice", "shares"),
    [
        ("[[A>B]]", "A>B", (1, 0)),
        ("[[B>A]]", "B>A", (0, 1)),
        ("[[A=B=Good]]", "A=B=Good", (0.5, 0.5)),
        ("[[A=B=Bad]]", "A=B=Bad", (0.5, 0.5)),
    ],
)
def test_judge_chooses_one_of_four_options(said: str, choice: str, shares: tuple[float, ...]) -> None:
    engine = saying("Hm.</think>", f"<answer>{said}</answer>")
    judgment = judged(engine, IMAGES)
    assert "[Image A]\none\n\n[Image B]\ntwo<|im_end|>" in engine.requests[0][0]
    assert (judgment.choice, judgment.scores, judgment.expected_scores) == (choice, shares, shares)
    assert judgment.preferred == {1: 0, 0: 1}.get(shares[0])


def test_missing_option_is_forced_with_its_grammar() -> None:
    engine = saying("so " * 100, "[[B>A]]</answer>")
    judgment = judged(engine, IMAGES)
    assert (judgment.choice, judgment.votes[0].forced_answer) == ("B>A", "budget")
    _, sampling = engine.requests[-1]
    allowed = [f"[[{o}]]</answer>" for o in ("A>B", "B>A", "A=B=Good", "A=B=Bad", "C>A", "A=B")]
    assert [bool(re.fullmatch(sampling.regex or "", text)) for text in allowed] == [True] * 4 + [False] * 2
    assert sampling.stop == ("</answer>",)


def test_listwise_verdict_has_one_score_per_response() -> None:
    written = "".join(f"<answer>{s}</answer>" for s in (7, 3, 10, 1, 5))
    for engine in (saying("Hm.</think>", written), saying("so " * 100, written.removeprefix("<answer>"))):
        judgment = judged(engine, BATCH)
        assert judgment.scores == judgment.expected_scores == (7, 3, 10, 1, 5)
        assert judgment.preferred == 2
    assert "[Assistant 5's Answer]\ne" in engine.requests[0][0]


def test_without_forcing_a_missing_listwise_score_is_unparseable() -> None:
    judgment = judged(saying("Hm.</think>", "<answer>7</answer>" * 4), BATCH, forced_answer=False)
    assert (judgment.status, judgment.votes[0].detail) == (Status.UNPARSEABLE, "4 answers for 5 responses")


RAMBLE = "so " * 200


def mute(_: str, sampling: Sampling) -> str:
    """Uses up all the tokens it gets, everywhere but in the grammar."""
    if not sampling.regex:
        return RAMBLE
    more = sampling.regex.count("<answer>")
    return "[[A=B=Good]]</answer>" if "A=B" in sampling.regex else "10</answer>" + "<answer>10</answer>" * more


@pytest.mark.parametrize("comparison", [SINGLE, PAIR, BATCH, IMAGES], ids=["single", "pair", "batch", "options"])
@pytest.mark.parametrize("how", [{}, {"num_waits": 3}, {"reason_first": False}, {"order": "both"}], ids=str)
def test_admitted_prompts_never_exceed_the_context(comparison: Comparison, how: dict[str, Any]) -> None:
    def wordy(prompt: str, sampling: Sampling) -> str:
        """Ends its thoughts late and its answers with more words, so that every request is as long as it can be."""
        if sampling.stop == ("</think>",):
            return "so " * ((sampling.max_tokens - 8) // 3) + "</think>"
        return mute(prompt, sampling)

    def run(script: Script, room: int) -> tuple[Status, list[int]]:
        engine = ScriptedEngine(script, max_model_len=room)
        status = judged(engine, comparison, **how).status
        return status, [len(ids) + sampling.max_tokens for ids, sampling in engine.given]

    longest = 0
    for script in (mute, wordy):
        least = bisect_left(range(4000), True, key=lambda room: run(script, room)[0] == Status.OK)
        assert run(script, least - 1) == (Status.OVERLONG, [])
        status, lengths = run(script, least)
        assert status == Status.OK
        assert max(lengths) <= least
        longest = max(longest, *lengths)
    # A judge that is made to wait comes to the end of its budget, and then says nothing in the answer's place.
    assert longest > least - (60 if "num_waits" not in how else 140)


def test_prompt_too_long_in_one_order_is_overlong() -> None:
    """A text that ends in `.` is a token shorter where a header follows, as `.` and the line break are one token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate([*alphabet, ".Ċ"])}, merges=[(".", "Ċ")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<|im_start|>", "<|im_end|>")])

    def status(order: str, room: int) -> tuple[Status, int]:
        engine = saying("Hm.</think>", "<answer>9</answer><answer>2</answer>", max_model_len=room)
        engine.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=CHATML)
        judgment = judged(engine, Comparison.of("q", "a.", "b"), order=order)
        return judgment.status, len(engine.requests)

    least = bisect_left(range(4000), True, key=lambda room: status("as_given", room)[0] == Status.OK)
    assert status("both", least) == (Status.OVERLONG, 0)
    assert status("both", least + 1) == (Status.OK, 4)
