"""Summary of a benchmark run: metrics by task and group, unjudged items with reasons, and published results."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import Benchmark
from flex_judge.experiments.benchmarks.data import BenchmarkData
from flex_judge.experiments.benchmarks.diagnosis import compute_calibration, find_worst_items, measure_biases
from flex_judge.experiments.benchmarks.items import NOT_JUDGED, OFF_SCALE, Item, ItemOutcome, extract_prediction
from flex_judge.experiments.benchmarks.scoring import PARTIAL, PUBLISHED_SUFFIX, PairScoring
from flex_judge.experiments.commands.eval.config import EvalRun
from flex_judge.experiments.commands.eval.notes import collect_notes, collect_settings, is_failed
from flex_judge.experiments.common.reporting.media import encode_thumbnail
from flex_judge.judges.errors import MediaError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import Response, Trajectory, split_content


def build_summary(
    benchmark: Benchmark, config: EvalRun, data: BenchmarkData, outcomes: Sequence[ItemOutcome], out: Path | None = None
) -> dict[str, Any]:
    """Build the summary of a run.

    Args:
        benchmark: The benchmark.
        config: Settings of the run.
        data: Data of the benchmark.
        outcomes: Outcomes of all items; items without a label have no judgment.
        out: Folder of the run; None if nothing is stored, which leaves out the worst disagreements.

    Returns:
        The headline metric of each task, as `agreement`, or as `pair.agreement` if there are several tasks; then
        everything else. Headline metrics cover all items; in shares, items without a verdict count as wrong.
    """
    labelled = [outcome for outcome in outcomes if outcome.item.label is not None]
    judgments = [judgment for outcome in labelled for judgment in outcome.judgments]
    tasks = {}
    for name in benchmark.spec.tasks:
        task_outcomes = [outcome for outcome in labelled if outcome.item.task == name]
        if task_outcomes:
            tasks[name] = _build_task_summary(benchmark, config, task_outcomes, out)
    reasons = dict.fromkeys(j.provenance[NOT_JUDGED] for j in judgments if NOT_JUDGED in j.provenance)
    return {
        **collect_headlines(benchmark, tasks),
        "benchmark": benchmark.spec.name,
        "judge": next((j.model for j in judgments if j.model), config.judge.engine.model),
        "replay": config.replay,
        "out": str(out) if out else None,
        "items": len(outcomes),
        "scored": sum(any(j.scores for j in outcome.judgments) for outcome in labelled),
        "unscored": dict(Counter(get_unscored_reason(j) for j in judgments if j.scores is None).most_common()),
        "not_judged": sum(any(is_failed(j) for j in outcome.judgments) for outcome in labelled),
        "examples_not_judged": list(reasons)[:10],
        "off_scale": sum(j.provenance.get(OFF_SCALE, 0) for j in judgments),
        "left_out": dict(Counter(outcome.item.left_out for outcome in outcomes if outcome.item.label is None)),
        "judgments": len(judgments),
        "forced_answer": sum(vote.forced_answer is not None for outcome in labelled for vote in outcome.votes),
        "votes": sum(len(outcome.votes) for outcome in labelled),
        "notes": collect_notes(benchmark, config, outcomes),
        "data": {"name": data.name, "files": list(data.files)[:20], "rows": len(data.records), "digest": data.digest},
        "settings": collect_settings(config, judgments),
        "tasks": tasks,
        "published": [asdict(result) for result in benchmark.spec.published],
    }


def get_unscored_reason(judgment: Judgment) -> str:
    """Return why a judgment has no score: `not judged`, or its status."""
    return "not judged" if NOT_JUDGED in judgment.provenance else str(judgment.status)


def build_item_row(benchmark: Benchmark, outcome: ItemOutcome) -> dict[str, Any]:
    """Build the row of an item in `items.jsonl`."""
    scoring = benchmark.spec.tasks[outcome.item.task]
    predictions: list[Any] = []
    for judgment in outcome.judgments:
        if isinstance(scoring, PairScoring):
            predictions.append(extract_prediction(judgment, scoring.by_options))
        else:
            predictions.append(judgment.scores and list(judgment.scores))
    return {
        "id": outcome.item.id,
        "task": outcome.item.task,
        **outcome.item.groups,
        "label": outcome.item.label,
        "predictions": predictions,
        "status": [get_unscored_reason(j) if j.scores is None else str(j.status) for j in outcome.judgments],
        "off_scale": [OFF_SCALE in judgment.provenance for judgment in outcome.judgments],
        "in_published": outcome.item.in_published,
    }


def _build_task_summary(
    benchmark: Benchmark, config: EvalRun, outcomes: Sequence[ItemOutcome], out: Path | None
) -> dict[str, Any]:
    scoring = benchmark.spec.tasks[outcomes[0].item.task]
    seed = config.judge.settings.seed
    metrics, tables = scoring.compute_metrics(outcomes, seed), scoring.compute_tables(outcomes, seed)
    worst = find_worst_items(scoring, outcomes) if out else []
    return {
        "headline": scoring.headline,
        "items": len(outcomes),
        "figures": {name: estimate.to_json() for name, estimate in metrics.items()},
        "tables": {
            grouping: {group: estimate.to_json() for group, estimate in table.items()}
            for grouping, table in tables.items()
        },
        "calibration": compute_calibration(scoring, outcomes),
        "biases": measure_biases(scoring, outcomes),
        "worst": [_describe_disagreement(outcome, distance, out) for outcome, distance in worst],
    }


def collect_headlines(benchmark: Benchmark, tasks: Mapping[str, Any]) -> dict[str, float | None]:
    """Collect the headline metric of each task, and the mean over all tasks if that is a published metric."""
    has_several_tasks = len(benchmark.spec.tasks) > 1
    headlines: dict[str, float | None] = {}
    for name, task in tasks.items():
        estimate = task["figures"][task["headline"]]
        value = estimate["value"] if estimate["strict"] is None else estimate["strict"]
        # A judge without any verdict on a task is not one with none right.
        value = value if estimate["count"] else None
        headlines[f"{name}.{task['headline']}" if has_several_tasks else task["headline"]] = value
    values = [value for value in headlines.values() if value is not None]
    # Published overall results are means over all tasks, so a run without a task has none.
    if benchmark.spec.overall and len(tasks) == len(benchmark.spec.tasks):
        headlines["overall"] = sum(values) / len(values) if len(values) == len(tasks) else None
        headlines[PARTIAL] = sum(values) / len(values) if 0 < len(values) < len(tasks) else None
        for name in ("majority", f"majority{PUBLISHED_SUFFIX}"):
            majorities = [task["figures"].get(name, {}).get("strict") for task in tasks.values()]
            if None not in majorities and len(values) == len(tasks):
                headlines[name] = sum(majorities) / len(majorities)
    return headlines


def _describe_disagreement(outcome: ItemOutcome, distance: float, out: Path | None) -> dict[str, Any]:
    """Describe one disagreement with everything that a reader needs to judge it."""
    judgment = outcome.combined_judgment  # of all runs, as the metrics use it
    try:
        prompt, responses = describe_item(outcome.item, out)
    except MediaError as e:  # the media were deleted since the item was judged
        prompt, responses = [{"text": str(e)}], []
    return {
        "id": outcome.item.id,
        "groups": dict(outcome.item.groups),
        "label": outcome.item.label,
        "scores": judgment.scores and list(judgment.scores),
        "choice": judgment.choice,
        "reasoning": judgment.reasoning,
        "distance": distance,
        "prompt": prompt,
        "responses": responses,
    }


PICTURES = "pictures"


def describe_item(item: Item, out: Path | None) -> tuple[list[dict[str, str]], list[list[dict[str, str]]]]:
    """Describe the parts of the question and of each response for the report page.

    Returns:
        Parts of the question, and parts of each response. A part is `{"text"}`, `{"image"}` with the name of a file in
        the run folder, or `{"medium"}` with a short text instead of a medium that a page cannot show.

    Raises:
        MediaError: A medium cannot be read.
    """
    comparison = item.row.load_comparison()
    # Roles, calls and tools are shown where the judge is shown them.
    shown = Trajectory(comparison.prompt).to_parts() if comparison.is_conversation else comparison.prompt[0].content
    prompt = _describe_content(shown, out)
    return prompt, [_describe_content(response, out) for response in comparison.responses]


def _describe_content(content: Response, out: Path | None) -> list[dict[str, str]]:
    return [{"text": part} if isinstance(part, str) else _describe_medium(part, out) for part in split_content(content)]


def _describe_medium(medium: Media, out: Path | None) -> dict[str, str]:
    # A video is shown by its first frame; audio and molecules by their names.
    frame = medium.frames[0] if medium.frames else medium
    if frame.modality != Modality.IMAGE or out is None:
        return {"medium": f"{medium.modality}: {Path(medium.name).name}"}
    # Named by content, so that an image of several items is stored once.
    name = f"{PICTURES}/{hashlib.sha256(frame.data).hexdigest()[:16]}.jpg"
    if not (out / name).exists():
        (out / PICTURES).mkdir(exist_ok=True)
        (out / name).write_bytes(encode_thumbnail(frame.data, frame.name))
    return {"image": name}
