"""Texts for the statistics of a run, shared by the report page and the terminal.

All functions are pure: statistics in, text out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flex_judge.judges.models.embedded import BASE

STATUS_WORDS = {
    "ok": "scored",
    "unparseable": "no verdict in the requested form",
    "truncated": "ran out of tokens within the verdict",
    "timeout": "no verdict before the deadline",
    "engine_lost": "the engine ended and no other replaced it",
    "overlong": "the prompt does not fit the judge's context",
    "invalid_input": "the prompt or a response cannot be judged, for example an unreadable image",
    "failed": "an unexpected error, which the log names",
    "not_judged": "no judgment was written",
}
"""Judgment status -> explanation."""
FORCED_ANSWER_REASONS = {
    "budget": "the thinking ran out of its token budget",
    "early_end": "the reply ended before the thinking did",
    "no_answer": "the reply had no answer in the requested form after the thinking",
}
"""Reason for a forced answer -> explanation."""
_EXACT = 1e-9  # accuracies are fractions of counts; a smaller difference is rounding


def format_percent(share: float) -> str:
    """Format a share of 0..1 in percent with one decimal: `41.7%`."""
    return f"{100 * share:.1f}%"


def format_count(number: int, noun: str) -> str:
    """Format a number with its noun, which must have a regular plural: `1 prompt`, `1,024 prompts`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_duration(seconds: float) -> str:
    """Format seconds for people: `0.42 s`, `12.3 s`, `3 min 05 s`, `2 h 04 min`."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, remaining_seconds = divmod(round(seconds), 60)
    return f"{minutes} min {remaining_seconds:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def compute_chance_margin(accuracy_random: float, prompts: int) -> float:
    """Compute two standard errors of a random pick's accuracy, as a share.

    The standard error is sqrt(p(1-p)/prompts), which is conservative: samples of one prompt are correlated. p is
    shrunk towards one half by four pseudo-prompts (Agresti and Coull): with few prompts and p near 0 or 1, the plain
    formula would make one lucky prompt significant.
    """
    p = (accuracy_random * prompts + 2) / (prompts + 4)
    return 2 * math.sqrt(p * (1 - p) / max(prompts, 1))


def describe_verdict(summary: Mapping[str, Any]) -> str:
    """Write one sentence on whether the judge chose better than chance, from the statistics in `summary.json`."""
    prompts, samples = int(summary.get("prompts") or 0), int(summary.get("samples_per_prompt") or 0)
    best, chance = summary.get("accuracy_best_of_n"), summary.get("accuracy_random")
    ceiling = summary.get("accuracy_pass_at_n")
    if not prompts:
        return "No prompts were run, so there is nothing to say about the judge."
    if best is None or chance is None:
        each = f"of each of {format_count(prompts, 'prompt')}" if prompts > 1 else "of one prompt"
        return (
            f"The judge was given {format_count(samples, 'sample')} {each}; there is no ground truth, "
            "so the accuracy of its choices is unknown."
        )
    margin, noise = best - chance, compute_chance_margin(chance, prompts)
    start = f"Best-of-{samples} is right on {format_percent(best)} of {format_count(prompts, 'prompt')}"
    random_pick = format_percent(chance)
    # Name the untuned base model, so that readers do not blame the method for its result.
    judge = "this untuned judge" if str(summary.get("judge", "")).startswith(BASE) else "this judge"
    if margin <= -noise:
        return (
            f"{start}, {_format_points(-margin)} below a random pick ({random_pick}), which is more than noise: "
            f"{judge} chooses worse than chance here."
        )
    if ceiling is not None and ceiling - chance < _EXACT:
        return (
            f"{start} and a random pick on {random_pick}: there was nothing to choose, because the samples of each "
            "prompt are all right or all wrong."
        )
    if margin < noise:
        return (
            f"{start} and a random pick on {random_pick}: the difference of {_format_points(margin, sign=True)} is "
            f"within noise (two standard errors are {_format_points(noise)}), so {judge} chooses no better than "
            "chance here, as far as this run can show."
        )
    gap = ceiling_share = ""
    if ceiling is not None:
        gap = f", and closes {100 * margin / (ceiling - chance):.0f}% of the gap to the ceiling"
        ceiling_share = f" ({format_percent(ceiling)})"
    return (
        f"{start}: {judge} chooses {_format_points(margin)} better than a random pick ({random_pick}){gap}"
        f"{ceiling_share}."
    )


def list_accuracies(summary: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """List name, explanation and share of each measured accuracy, the lowest expected first."""
    n = summary["samples_per_prompt"]
    bars = [
        ("accuracy_pass_at_1", "pass@1 (first sample)", "without a judge"),
        ("accuracy_random", "Random pick", f"the mean over all {n} samples"),
        ("accuracy_best_of_n", f"Best of {n}", "the sample that the judge scored highest"),
        ("accuracy_pass_at_n", f"pass@{n}", "the ceiling: a perfect judge"),
    ]
    return [(label, note, summary[key]) for key, label, note in bars if summary.get(key) is not None]


def compute_noise_band(summary: Mapping[str, Any]) -> tuple[float, float] | None:
    """Compute the range of a random pick's accuracy by chance, as shares; None without ground truth."""
    chance, prompts = summary.get("accuracy_random"), summary["prompts"]
    if chance is None or not prompts:
        return None
    margin = compute_chance_margin(chance, prompts)
    return max(0.0, chance - margin), min(1.0, chance + margin)


def list_token_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """List label and number of each token count in the summary."""
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
    # Print -0.0 and +0.0 as 0.0.
    return f"{'0.0' if value.lstrip('+-') == '0.0' else value} points"
