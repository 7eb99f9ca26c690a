"""The words for a run's figures, shared by the report page and the terminal. Pure: figures in, text out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flex_judge.judges.models.embedded import BASE

STATUS_WORDS = {
    "ok": "scored",
    "unparseable": "no verdict of the form that was asked for",
    "truncated": "ran out of tokens inside the verdict",
    "timeout": "no verdict before the deadline",
    "engine_lost": "the engine died and no other took over",
    "overlong": "the prompt does not fit the judge's context",
    "not_judged": "no judgment of it was written",
}
FORCED_ANSWER_REASONS = {
    "budget": "the thinking ran out of its token budget",
    "early_end": "the reply ended while the judge was still thinking",
    "no_answer": "the judge thought and then answered nothing of the form",
}
_EXACT = 1e-9  # accuracies are fractions of counts: what differs by less than this differs by rounding only


def format_percent(share: float) -> str:
    """A share of 0..1 with one decimal: `41.7%`."""
    return f"{100 * share:.1f}%"


def format_count(number: int, noun: str) -> str:
    """A number with its noun, which takes a plain plural s: `1 prompt`, `1,024 prompts`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_duration(seconds: float) -> str:
    """Seconds as a person says them: `0.42 s`, `12.3 s`, `3 min 05 s`, `2 h 04 min`."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def compute_chance_margin(accuracy_random: float, prompts: int) -> float:
    """How far from `accuracy_random` a random pick's accuracy may fall by chance: two standard errors, as a share.

    The error is sqrt(p(1-p)/prompts). It is too wide rather than too narrow, as the samples of one prompt are alike.
    p is drawn towards one half by four imaginary prompts (Agresti and Coull), because with few prompts and p near 0
    or 1 the bare formula would call a single lucky prompt a finding.
    """
    p = (accuracy_random * prompts + 2) / (prompts + 4)
    return 2 * math.sqrt(p * (1 - p) / max(prompts, 1))


def describe_verdict(summary: Mapping[str, Any]) -> str:
    """One honest sentence on whether the judge chose better than chance, from the figures of `summary.json`."""
    prompts, samples = int(summary.get("prompts") or 0), int(summary.get("samples_per_prompt") or 0)
    best, chance = summary.get("accuracy_best_of_n"), summary.get("accuracy_random")
    ceiling = summary.get("accuracy_pass_at_n")
    if not prompts:
        return "No prompts were run, so there is nothing to say about the judge."
    if best is None or chance is None:
        each = f"of each of {format_count(prompts, 'prompt')}" if prompts > 1 else "of one prompt"
        return (
            f"The judge was given {format_count(samples, 'sample')} {each}; there is no ground truth, "
            "so nothing is said on whether its choices are right."
        )
    margin, noise = best - chance, compute_chance_margin(chance, prompts)
    start = f"Best-of-{samples} is right on {format_percent(best)} of {format_count(prompts, 'prompt')}"
    # A model known to be no judge is called so: a reader should not blame the method for it.
    judge = "this untuned judge" if str(summary.get("judge", "")).startswith(BASE) else "this judge"
    if margin <= -noise:
        return (
            f"{start}, {_format_points(-margin)} below a random pick ({format_percent(chance)}) and further than noise reaches: "
            f"{judge} chooses worse than chance here."
        )
    if ceiling is not None and ceiling - chance < _EXACT:
        return (
            f"{start} and a random pick on {format_percent(chance)}: there was nothing to choose, as the samples of each "
            "prompt are all right or all wrong."
        )
    if margin < noise:
        return (
            f"{start} and a random pick on {format_percent(chance)}: the difference of {_format_points(margin, sign=True)} is within "
            f"noise (two standard errors are {_format_points(noise)}), so {judge} chooses no better than chance here, "
            "as far as this run can tell."
        )
    gap = "" if ceiling is None else f", and closes {100 * margin / (ceiling - chance):.0f}% of the gap to the ceiling"
    of = "" if ceiling is None else f" ({format_percent(ceiling)})"
    return f"{start}: {judge} chooses {_format_points(margin)} better than a random pick ({format_percent(chance)}){gap}{of}."


def list_accuracies(summary: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Name, explanation and share of each accuracy that was measured, worst expected first."""
    n = summary["samples_per_prompt"]
    bars = [
        ("accuracy_pass_at_1", "pass@1 (first sample)", "what one would get without a judge"),
        ("accuracy_random", "Random pick", f"the mean over all {n} samples"),
        ("accuracy_best_of_n", f"Best of {n}", "the sample that the judge scored highest"),
        ("accuracy_pass_at_n", f"pass@{n}", "the ceiling: what a perfect judge would get"),
    ]
    return [(label, note, summary[key]) for key, label, note in bars if summary.get(key) is not None]


def compute_noise_band(summary: Mapping[str, Any]) -> tuple[float, float] | None:
    """The accuracies that a random pick may reach by chance, as shares; None without ground truth."""
    chance, prompts = summary.get("accuracy_random"), summary["prompts"]
    if chance is None or not prompts:
        return None
    margin = compute_chance_margin(chance, prompts)
    return max(0.0, chance - margin), min(1.0, chance + margin)


def list_token_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of the tokens: a label and a figure each."""
    labels = (
        ("policy_tokens", "written by the policy"),
        ("judge_tokens", "written by the judge"),
        ("prompt_tokens", "read by the judge"),
    )
    rows = [(label, f"{summary[key]:,}") for key, label in labels if summary.get(key) is not None]
    cached, sent = summary.get("cached_tokens"), summary.get("prompt_tokens")
    if cached is not None and sent:
        rows.append(("of these cached", f"{cached:,} ({format_percent(cached / sent)})"))
    return rows


def _format_points(share: float, sign: bool = False) -> str:
    value = f"{100 * share:+.1f}" if sign else f"{100 * share:.1f}"
    # Minus zero and plus zero are the same to a reader.
    return f"{'0.0' if value.lstrip('+-') == '0.0' else value} points"
