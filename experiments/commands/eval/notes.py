"""Settings of a benchmark run, and notes that a reader needs before comparing with published results."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import Benchmark
from flex_judge.experiments.benchmarks.items import NOT_JUDGED, OFF_SCALE, ItemOutcome
from flex_judge.experiments.commands.eval.config import EvalRun
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.validation.flat import flatten_values

_SETTINGS = ("order", "task", "limit", "seed")
_JUDGE_SETTINGS = (
    "runs",
    "votes",
    "temperature",
    "top_p",
    "num_waits",
    "reason_first",
    "adapter",
    "engine",
    "max_think_tokens",
    "max_model_len",
    "image_max_pixels",
    "video_fps",
    "video_max_pixels",
)
"""Settings in the summary; those of the judge are left out for a replay."""


def is_failed(judgment: Judgment) -> bool:
    """Return whether an item has no judgment: it could not be read, or no reply came."""
    return NOT_JUDGED in judgment.provenance or not judgment.status.is_final


def collect_notes(benchmark: Benchmark, config: EvalRun, outcomes: Sequence[ItemOutcome]) -> list[str]:
    """Collect what a reader must know before comparing with published results."""
    notes = []
    if config.limit is not None:
        sample = f"a random sample of all groups, drawn with --seed {config.judge.settings.seed}"
        notes.append(f"only {len(outcomes)} items, by --limit {config.limit}: {sample}")
    else:
        for task, published_count in benchmark.spec.counts.items():
            count = sum(outcome.item.task == task for outcome in outcomes)
            if count and count != published_count:
                of_task = f" of {task}" if len(benchmark.spec.tasks) > 1 else ""
                notes.append(f"{count} items{of_task}; the published version has {published_count}")
    values = _read_settings(config, [judgment for outcome in outcomes for judgment in outcome.judgments])
    for name, published_value in benchmark.spec.protocol.items():
        if values[name] != published_value and not config.replay:
            notes.append(f"{name} is {values[name]}; the published protocol has {published_value}")
    return notes + _collect_item_notes(outcomes) + (_collect_reply_notes(config, outcomes) if config.replay else [])


def _collect_item_notes(outcomes: Sequence[ItemOutcome]) -> list[str]:
    notes = []
    contents = Counter(json.dumps(outcome.item.row.data, default=repr, sort_keys=True) for outcome in outcomes)
    if num_repeated := sum(times - 1 for times in contents.values()):
        notes.append(f"{num_repeated} of {len(outcomes)} items repeat an earlier item")
    if num_unpublished := sum(not outcome.item.in_published for outcome in outcomes if outcome.item.label is not None):
        num_labelled = sum(outcome.item.label is not None for outcome in outcomes)
        notes.append(
            f"{num_labelled} items have a label, {num_labelled - num_unpublished} by the stricter rule of the makers' "
            "scripts; metrics as the makers count cover the latter"
        )
    judged = [judgment for outcome in outcomes for judgment in outcome.judgments if not is_failed(judgment)]
    num_unscored = sum(judgment.scores is None for judgment in judged)
    # A model fails now and then, but a format that the parser does not know fails most of the time.
    if 2 * num_unscored > len(judged):
        notes.append(f"no verdict in {num_unscored} of {len(judged)} replies; check the format of the replies")
    return notes


def _collect_reply_notes(config: EvalRun, outcomes: Sequence[ItemOutcome]) -> list[str]:
    notes = []
    judged = [outcome for outcome in outcomes if outcome.judgments and not any(map(is_failed, outcome.judgments))]
    runs = {len(outcome.judgments) for outcome in judged}
    if len(runs) > 1:
        notes.append(f"items have between {min(runs)} and {max(runs)} runs")
    if num_off_scale := sum(j.provenance.get(OFF_SCALE, 0) for outcome in outcomes for j in outcome.judgments):
        num_replies = sum(
            len(j.votes) for outcome in outcomes for j in outcome.judgments if NOT_JUDGED not in j.provenance
        )
        notes.append(f"{num_off_scale} of {num_replies} replies have scores off our scale; their order counts")
    is_random = config.judge.settings.order == "random"
    if is_random and not any(vote.order[:1] == (1,) for outcome in outcomes for vote in outcome.votes):
        notes.append('no reply has its reading order ("orders"); all are scored as read in the given order')
    return notes


def collect_settings(config: EvalRun, judgments: Sequence[Judgment]) -> dict[str, Any]:
    """Collect the settings of a run for its summary."""
    values = _read_settings(config, judgments)
    return {name: values[name] for name in (_SETTINGS if config.replay else _SETTINGS + _JUDGE_SETTINGS)}


def _read_settings(config: EvalRun, judgments: Sequence[Judgment]) -> dict[str, Any]:
    """Read the settings of the judge: those of this run, or those that a service recorded in its judgments."""
    values = flatten_values(config)
    if config.judge_url is None:
        return values
    recorded: Mapping[str, Any] = next((j.provenance["settings"] for j in judgments if "settings" in j.provenance), {})
    media = recorded.get("media") or {}
    # A service does not say everything, for example not its context length.
    unknown = dict.fromkeys(name for name in _JUDGE_SETTINGS if name != "runs")
    return {**values, **unknown, "order": None, **_flatten(recorded), **media, "seed": config.judge.settings.seed}


def _flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if not isinstance(value, Mapping)}
