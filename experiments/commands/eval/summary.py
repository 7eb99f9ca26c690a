"""What a run came to: figures by task and group, what was not judged and why, and published figures beside them."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from flex_judge.experiments.benchmarks.benchmark import Benchmark
from flex_judge.experiments.benchmarks.data import BenchmarkData
from flex_judge.experiments.benchmarks.diagnosis import compute_calibration, find_worst_items, measure_biases
from flex_judge.experiments.benchmarks.items import NOT_JUDGED, Item, ItemOutcome, extract_prediction
from flex_judge.experiments.benchmarks.scoring import PairScoring
from flex_judge.experiments.commands.eval.config import EvalRun
from flex_judge.judges.errors import MediaError
from flex_judge.judges.judgments import Judgment
from flex_judge.judges.media.files import convert_decoder_errors, open_image, to_upright_rgb
from flex_judge.judges.media.types import Media, Modality
from flex_judge.judges.types import Content, split_content
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
"""Settings that a summary repeats."""


def build_summary(
    benchmark: Benchmark, config: EvalRun, data: BenchmarkData, outcomes: Sequence[ItemOutcome], out: Path | None = None
) -> dict[str, Any]:
    """The summary of a run.

    Args:
        outcomes: of every item, those that are left out with no judgment.
        out: the run's folder; None where nothing is kept, and the worst disagreements are left out.

    Returns:
        The headline of each task by its name (`agreement`), or, where there are several tasks, by task and name
        (`pair.agreement`), each over all items, those without a verdict counted as wrong, if it is a share; then
        everything else.
    """
    judged = [one for one in outcomes if one.item.label is not None]
    judgments = [judgment for one in judged for judgment in one.judgments]
    tasks = {
        name: _build_task_summary(benchmark, config, [one for one in judged if one.item.task == name], out)
        for name in benchmark.spec.tasks
        if any(one.item.task == name for one in judged)
    }
    return {
        **_collect_headlines(benchmark, tasks),
        "benchmark": benchmark.spec.name,
        "judge": next((j.model for j in judgments if j.model), config.judge.engine.model),
        "replay": config.replay,
        "out": str(out) if out else None,
        "items": len(outcomes),
        "scored": sum(any(j.scores for j in one.judgments) for one in judged),
        "unscored": dict(Counter(get_unscored_reason(j) for j in judgments if j.scores is None).most_common()),
        "not_judged": sum(any(_is_failed(j) for j in one.judgments) for one in judged),
        "examples_not_judged": list(
            dict.fromkeys(j.provenance[NOT_JUDGED] for j in judgments if NOT_JUDGED in j.provenance)
        )[:10],
        "left_out": dict(Counter(one.item.left_out for one in outcomes if one.item.label is None)),
        "judgments": len(judgments),
        "forced_answer": sum(vote.forced_answer is not None for one in judged for vote in one.votes),
        "votes": sum(len(one.votes) for one in judged),
        "notes": _collect_notes(benchmark, config, outcomes),
        "data": {"name": data.name, "files": list(data.files)[:20], "rows": len(data.records), "digest": data.digest},
        "settings": _collect_settings(config),
        "tasks": tasks,
        "published": [asdict(one) for one in benchmark.spec.published],
    }


def _is_failed(judgment: Judgment) -> bool:
    return NOT_JUDGED in judgment.provenance or not judgment.status.is_final


def get_unscored_reason(judgment: Judgment) -> str:
    """Why a judgment has no score, in a word."""
    return "not judged" if NOT_JUDGED in judgment.provenance else str(judgment.status)


def build_item_row(benchmark: Benchmark, outcome: ItemOutcome) -> dict[str, Any]:
    """What an item came to, as a row of `items.jsonl`."""
    scoring = benchmark.spec.tasks[outcome.item.task]
    return {
        "id": outcome.item.id,
        "task": outcome.item.task,
        **outcome.item.groups,
        "label": outcome.item.label,
        "said": [
            extract_prediction(one, scoring.by_options)
            if isinstance(scoring, PairScoring)
            else one.scores and list(one.scores)
            for one in outcome.judgments
        ],
        "status": [get_unscored_reason(one) if one.scores is None else str(one.status) for one in outcome.judgments],
    }


def _build_task_summary(
    benchmark: Benchmark, config: EvalRun, outcomes: Sequence[ItemOutcome], out: Path | None
) -> dict[str, Any]:
    scoring = benchmark.spec.tasks[outcomes[0].item.task]
    seed = config.judge.settings.seed
    figures, tables = scoring.compute_metrics(outcomes, seed), scoring.compute_tables(outcomes, seed)
    return {
        "headline": scoring.headline,
        "items": len(outcomes),
        "figures": {name: figure.to_json() for name, figure in figures.items()},
        "tables": {
            name: {group: figure.to_json() for group, figure in table.items()} for name, table in tables.items()
        },
        "calibration": compute_calibration(scoring, outcomes),
        "biases": measure_biases(scoring, outcomes),
        "worst": [_describe_disagreement(one, distance, out) for one, distance in find_worst_items(scoring, outcomes)]
        if out
        else [],
    }


def _collect_headlines(benchmark: Benchmark, tasks: dict[str, Any]) -> dict[str, float | None]:
    found = {}
    for name, task in tasks.items():
        figure = task["figures"][task["headline"]]
        value = figure["value"] if figure["strict"] is None else figure["strict"]
        found[task["headline"] if len(benchmark.spec.tasks) == 1 else f"{name}.{task['headline']}"] = value
    values = [value for value in found.values() if value is not None]
    if benchmark.spec.overall and len(values) == len(benchmark.spec.tasks):
        found["overall"] = sum(values) / len(values)
        majorities = [task["figures"].get("majority", {}).get("strict") for task in tasks.values()]
        if None not in majorities:
            found["majority"] = sum(majorities) / len(majorities)
    return found


def _collect_notes(benchmark: Benchmark, config: EvalRun, outcomes: Sequence[ItemOutcome]) -> list[str]:
    """What a reader must know before comparing with published figures."""
    notes = []
    if config.limit is not None:
        notes.append(f"only {len(outcomes)} items, by --limit {config.limit}")
    else:
        for task, count in benchmark.spec.counts.items():
            found = sum(one.item.task == task for one in outcomes)
            if found and found != count:
                where = f" of {task}" if len(benchmark.spec.tasks) > 1 else ""
                notes.append(f"{found} items{where} where the published version has {count}")
    for name, value in benchmark.spec.protocol.items():
        if flatten_values(config)[name] != value and not config.replay:
            notes.append(f"{name} is {flatten_values(config)[name]}; the published protocol has {value}")
    return notes + _collect_item_notes(outcomes) + (_collect_reply_notes(config, outcomes) if config.replay else [])


def _collect_item_notes(outcomes: Sequence[ItemOutcome]) -> list[str]:
    notes = []
    content = Counter(json.dumps(one.item.row.data, default=repr, sort_keys=True) for one in outcomes)
    if twice := sum(times - 1 for times in content.values()):
        notes.append(f"{twice} of {len(outcomes)} items are there more than once")
    judged = [judgment for one in outcomes for judgment in one.judgments if not _is_failed(judgment)]
    wordless = sum(judgment.scores is None for judgment in judged)
    if 2 * wordless > len(judged):
        notes.append(f"in {wordless} of {len(judged)} replies no verdict was found; look at how they are written")
    return notes


def _collect_reply_notes(config: EvalRun, outcomes: Sequence[ItemOutcome]) -> list[str]:
    notes = []
    runs = {len(one.judgments) for one in outcomes if not any(map(_is_failed, one.judgments)) and one.judgments}
    if len(runs) > 1:
        notes.append(f"items have from {min(runs)} to {max(runs)} runs")
    is_random = config.judge.settings.order == "random"
    if is_random and not any(vote.order[:1] == (1,) for one in outcomes for vote in one.votes):
        notes.append('no reply says in which order it was read ("orders"), so all are taken as read in the order given')
    return notes


def _collect_settings(config: EvalRun) -> dict[str, Any]:
    values = flatten_values(config)
    return {name: values[name] for name in (_SETTINGS if config.replay else _SETTINGS + _JUDGE_SETTINGS)}


def _describe_disagreement(outcome: ItemOutcome, distance: float, out: Path | None) -> dict[str, Any]:
    """One disagreement, with all that a reader needs to judge it."""
    said = outcome.combined_judgment
    try:
        prompt, responses = describe_item(outcome.item, out)
    except MediaError as e:  # judged from another copy, or gone since
        prompt, responses = [{"text": str(e)}], []
    return {
        "id": outcome.item.id,
        "groups": dict(outcome.item.groups),
        "label": outcome.item.label,
        "scores": said.scores and list(said.scores),
        "choice": said.choice,
        "reasoning": said.reasoning,
        "distance": distance,
        "prompt": prompt,
        "responses": responses,
    }


THUMBNAIL_PIXELS = 320
"""Of a copy, in pixels, at most."""
PICTURES = "pictures"


def describe_item(item: Item, out: Path | None) -> tuple[list[dict[str, str]], list[list[dict[str, str]]]]:
    """The parts of an item's question and of each of its responses: `{"text"}`, or `{"image"}` with the name of a file
    in the run's folder, or `{"medium"}` with what stands for one that a page does not show.

    Raises:
        MediaError: a medium cannot be read.
    """
    comparison = item.row.load_comparison()
    prompt = [part for message in comparison.prompt for part in _describe_content(message.content, out)]
    return prompt, [_describe_content(response, out) for response in comparison.responses]


def _describe_content(content: Content, out: Path | None) -> list[dict[str, str]]:
    return [{"text": part} if isinstance(part, str) else _describe_medium(part, out) for part in split_content(content)]


def _describe_medium(medium: Media, out: Path | None) -> dict[str, str]:
    frame = medium.frames[0] if medium.frames else medium
    if frame.modality != Modality.IMAGE or out is None:
        return {"medium": f"{medium.modality}: {Path(medium.name).name}"}
    name = f"{PICTURES}/{hashlib.sha256(frame.data).hexdigest()[:16]}.jpg"
    if not (out / name).exists():
        (out / PICTURES).mkdir(exist_ok=True)
        (out / name).write_bytes(_encode_thumbnail(frame))
    return {"image": name}


def _encode_thumbnail(medium: Media) -> bytes:
    with convert_decoder_errors(medium.name, "image"):
        picture: Any = to_upright_rgb(open_image(medium.data, medium.name), medium.name)
        picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=80)
        return buffer.getvalue()
