"""Formats of pairwise verdicts in published replies, each read by its makers' rule.

A format parses the text of a reply outside its reasoning. Formats that ask for scores return the two scores, all others
each response's share of the win. `flex-judge eval NAME --replay FILE --replay-format FORMAT` selects one; without it,
`list_formats` gives the formats to try. The makers' scripts are named in the comments.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from flex_judge.experiments.benchmarks.items import ANY_TIE
from flex_judge.judges.protocol.prompts import ANSWER_CLOSE, ANSWER_OPEN
from flex_judge.judges.rubrics.scale import OPTIONS

PairScores = tuple[float, float]
FIRST, SECOND, LEVEL = OPTIONS["A>B"], OPTIONS["B>A"], OPTIONS["A=B=Good"]
OWN_FORMAT = "flex-judge"
"""Format of this project's own judges: `<answer>` tags on the rubric's scale, read as strictly as in a run."""


@dataclass(frozen=True)
class ReplyFormat:
    """A format of verdicts."""

    parse: Callable[[str], PairScores | str | None]
    """Parse the scores, or the option (`A>B`, `A=B=Bad`, `A=B`), from the text of a reply; None without a verdict."""
    has_scores: bool = False
    """Whether the verdict is two scores, which may be off the rubric's scale."""


def parse_answer_tags(text: str, response_count: int = 2) -> tuple[float, ...] | None:
    """Parse one number in each `<answer>` tag, on any scale; repeated answers must agree."""
    contents = _ANSWER_TAG.findall(text)
    numbers = [float(match[1]) for content in contents if (match := _NUMBER.fullmatch(content))]
    if not contents or len(numbers) < len(contents) or len(numbers) % response_count:
        return None
    answers = {tuple(numbers[k : k + response_count]) for k in range(0, len(numbers), response_count)}
    return answers.pop() if len(answers) == 1 else None


def parse_genai_option(text: str) -> str | None:
    """Parse the first line with double brackets, which must hold one option and no other brackets."""
    # GenAI-Bench, inference.py: one greedy search, exact options; `>>` counts as `>`, `[[A=B]]` as both kinds of ties.
    for line in text.split("\n"):
        start, end = line.find("[[") + 2, line.rfind("]]")
        if 2 <= start <= end:
            option = line[start:end].replace(">>", ">")
            return option if option in (*OPTIONS, ANY_TIE) else None
    return None


def parse_arena_hard(text: str) -> PairScores | None:
    """Parse `[[A>B]]`, `[[A>>B]]`, `[[A=B]]`, `[[B>A]]` or `[[B>>A]]`; all verdicts must be written alike."""
    # Arena-Hard, Compass-Judger (JudgeBench, utils/judges.py).
    verdicts = set(re.findall(r"\[\[([AB<>=]+)\]\]", text))
    options = {"A>B": FIRST, "B>A": SECOND, "A=B": LEVEL}
    return options.get(verdicts.pop().replace(">>", ">")) if len(verdicts) == 1 else None


def parse_brackets(text: str) -> PairScores | None:
    """Parse `[[A]]`, `[[B]]`, `[[C]]` for a tie, `[[A>B]]`, `[[A>>B]]` or `[[A=B]]`; None if they contradict."""
    scores = {_score_bracket("".join(match[1].split()).upper()) for match in _BRACKETED.finditer(text)}
    return scores.pop() if len(scores) == 1 else None


def parse_mt_bench(text: str) -> PairScores | None:
    """Parse `[[A]]`, else `[[B]]`, else `[[C]]` for a tie, wherever it is."""
    # FastChat, llm_judge/common.py, and RewardBench, rewardbench/generative.py (without the tie).
    verdicts = {"[[A]]": FIRST, "[[B]]": SECOND, "[[C]]": LEVEL}
    return next((scores for mark, scores in verdicts.items() if mark in text), None)


def parse_mt_bench_scores(text: str) -> PairScores | None:
    """Parse two scores in double brackets (`[[8, 6.5]]`), else in single ones; a difference up to 0.1 is a tie."""
    # FastChat, llm_judge/common.py.
    match = re.search(rf"\[\[{_SCORE_PAIR}\]\]", text) or re.search(rf"\[{_SCORE_PAIR}\]", text)
    if match is None:
        return None
    first, second = float(match[1]), float(match[2])
    return (first, first) if abs(first - second) <= 0.1 else (first, second)


def parse_prometheus(text: str) -> PairScores | None:
    """Parse `[RESULT] A` or `[RESULT] B` at the end of a line."""
    # Prometheus 2, prometheus_eval/parser.py; the first match counts.
    match = _RESULT.search(text)
    return None if match is None else FIRST if match[1].upper() == "A" else SECOND


def parse_atla(text: str) -> PairScores | None:
    """Parse `**Result:** A` or `**Result:** B`."""
    # RewardBench, rewardbench/generative.py.
    match = re.search(r"\*\*Result:\*\*\s*(\w+)", text)
    return {"A": FIRST, "B": SECOND}.get(match[1]) if match else None


def parse_auto_j(text: str) -> PairScores | None:
    """Parse the last "final decision is Response 1", "Response 2" or "Tie"."""
    # Auto-J (JudgeBench, utils/judges.py).
    _, phrase, rest = text.rpartition("final decision is ")
    decision = rest.strip().lower()
    verdicts = {"response 1": FIRST, "response 2": SECOND, "tie": LEVEL}
    return next((scores for start, scores in verdicts.items() if phrase and decision.startswith(start)), None)


def parse_vl_rewardbench(text: str) -> PairScores | None:
    """Parse the last "Answer 1 is better" after "Overall Judgment" or "Therefore"; 1 or 2, "the", "slightly"."""
    # VL-RewardBench, cal.py: bold marks and line breaks are removed first.
    match = _OVERALL_JUDGMENT.search(text.replace("\n", "").replace("*", ""))
    return {"1": FIRST, "2": SECOND}.get(match[1]) if match else None


def parse_llmbar(text: str) -> PairScores | None:
    """Parse a line that starts with `Output (a)`, else one that starts with `Output (b)`."""
    # LLMBar, LLMEvaluator/evaluators/config.
    return _find_llmbar_output(r"(?:^|\n) ?Output \(%s\)", text)


def parse_llmbar_cot(text: str) -> PairScores | None:
    """Parse "Output (a) is better.", else "Output (b) is better."."""
    # LLMBar, prompts with reasoning; the last dot of their expression is any character.
    return _find_llmbar_output(r"Output \(%s\) is better.", text)


def parse_last_output(text: str) -> PairScores | None:
    """Parse `Output (a)` or `Output (b)` from the last sentence that names one; None if it names both."""
    for sentence in reversed(re.split(r"(?<=[.!?])\s+|\n", text)):
        if letters := {match[1].lower() for match in _OUTPUT.finditer(sentence)}:
            return None if len(letters) > 1 else FIRST if "a" in letters else SECOND
    return None


def parse_pandalm(text: str) -> PairScores | None:
    """Parse `1`, `2` or `Tie` alone on the first line."""
    # PandaLM, utils/pandalm_inference.py.
    first_line = text.strip().partition("\n")[0].strip().lower()
    return {"1": FIRST, "2": SECOND, "tie": LEVEL, "0": LEVEL}.get(first_line)


def parse_judgelm_line(text: str) -> PairScores | None:
    """Parse two numbers separated by one space or comma, and nothing else, on the first line."""
    # JudgeLM, llm_judge/common.py.
    parts = text.partition("\n")[0].replace(",", " ").split(" ")
    try:
        scores = [float(part) for part in parts]
    except ValueError:
        return None
    return (scores[0], scores[1]) if len(scores) == 2 and all(map(math.isfinite, scores)) else None


def parse_score_line(text: str) -> PairScores | None:
    """Parse two scores alone on the first line, with any white space, commas or semicolons around them."""
    match = _TWO_SCORES.fullmatch(text.strip().partition("\n")[0])
    return (float(match[1]), float(match[2])) if match else None


_ANSWER_TAG = re.compile(re.escape(ANSWER_OPEN) + r"(.*?)" + re.escape(ANSWER_CLOSE), re.DOTALL)
_NUMBER = re.compile(r"\s*([+-]?[0-9]+(?:\.[0-9]+)?)(?:\s*/\s*[0-9]+(?:\.[0-9]+)?)?\s*")
_BRACKETED = re.compile(
    r"\[\[\s*([ABC]|tie|A\s*[<>]{1,2}\s*B|B\s*[<>]{1,2}\s*A|A\s*=\s*B|B\s*=\s*A)\s*\]\]", re.IGNORECASE
)
_SCORE_PAIR = r"([0-9]+\.?[0-9]*),\s?([0-9]+\.?[0-9]*)"
_RESULT = re.compile(
    r"(?:\[result\](?:\s+response)?|\[result:|\[response\s|^result:?)\s*([AB])\]?\s*$", re.IGNORECASE | re.MULTILINE
)
_OVERALL_JUDGMENT = re.compile(
    r"(?:overall judgment|therefore).*answer\s*([0-9]+)\s*is\s*(?:the\s*)?(?:slightly\s*)?better", re.IGNORECASE
)
_OUTPUT = re.compile(r"\boutput\s*\(([ab])\)", re.IGNORECASE)
_TWO_SCORES = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)[\s,;]+([0-9]+(?:\.[0-9]+)?)\s*")


def _score_bracket(verdict: str) -> PairScores:
    if "=" in verdict or verdict in ("C", "TIE"):
        return LEVEL
    return FIRST if verdict == "A" or verdict.startswith(("A>", "B<")) else SECOND


def _find_llmbar_output(pattern: str, text: str) -> PairScores | None:
    verdicts = {"a": FIRST, "b": SECOND}
    return next((verdicts[letter] for letter in verdicts if re.search(pattern % letter, text.strip())), None)


def _parse_tag_pair(text: str) -> PairScores | None:
    scores = parse_answer_tags(text)
    return (scores[0], scores[1]) if scores else None


REPLY_FORMATS: Mapping[str, ReplyFormat] = {
    "judgelrm": ReplyFormat(_parse_tag_pair, has_scores=True),
    "genai-bench": ReplyFormat(parse_genai_option),
    "arena-hard": ReplyFormat(parse_arena_hard),
    "brackets": ReplyFormat(parse_brackets),
    "mt-bench": ReplyFormat(parse_mt_bench),
    "mt-bench-scores": ReplyFormat(parse_mt_bench_scores, has_scores=True),
    "prometheus": ReplyFormat(parse_prometheus),
    "atla": ReplyFormat(parse_atla),
    "auto-j": ReplyFormat(parse_auto_j),
    "vl-rewardbench": ReplyFormat(parse_vl_rewardbench),
    "llmbar": ReplyFormat(parse_llmbar),
    "llmbar-cot": ReplyFormat(parse_llmbar_cot),
    "output": ReplyFormat(parse_last_output),
    "pandalm": ReplyFormat(parse_pandalm),
    "judgelm": ReplyFormat(parse_judgelm_line, has_scores=True),
    "scores": ReplyFormat(parse_score_line, has_scores=True),
}
"""Name -> format. The guide `docs/guides/evaluate.md` describes each."""
_COMMON = ("judgelrm", "brackets", "prometheus", "atla", "auto-j", "output")
"""Formats to try for most benchmarks; their verdicts cannot be mistaken for other text."""


def list_formats(preferred: Sequence[str] = (), others: bool = True) -> tuple[str, ...]:
    """List the formats to try for a benchmark.

    Args:
        preferred: Formats of the benchmark; this project's format is tried before them.
        others: Whether to try the common formats after them.
    """
    return tuple(dict.fromkeys((OWN_FORMAT, *preferred, *(_COMMON if others else ()))))
