"""The judge as verl's custom reward function: one completion a call, over HTTP.

In verl's configuration, `pkg://flex_judge.reward.verl` or the path of this file:

    reward.custom_reward_function.path=pkg://flex_judge.reward.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.url=http://10.0.0.1:8000

verl awaits it in its reward managers `naive`, `dapo` and `gdpo`; `remote`, and verl before 0.6, do not await and take
`compute_score_sync`. Its manager `rate_limited` turns every error and its own time-out into a reward of 0, so do not
use that one: the client bounds what is under way itself.

The prompt is not among what verl hands over, so the data set's `extra_info` must hold it (`prompt_key`), and images too
(`image_key`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flex_judge.judges.errors import ServiceTimeoutError, UnscoredError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.reward.client.client import JudgeClient
from flex_judge.reward.integrations.local import resolve_judge
from flex_judge.reward.integrations.rows import RowConverter, to_list
from flex_judge.reward.types import Method, Normalization, Reward, RewardKind, RewardSpec, Sample

# No dataclasses here: verl may load this file by its path, without an entry in sys.modules, which they need.

URL_VARIABLE = "FLEX_JUDGE_URL"
CONCURRENCY = 64
VERL_ARGUMENTS = {
    "reward_router_address",
    "reward_model_tokenizer",
    "sandbox_fusion_url",
    "concurrent_semaphore",
    "memory_limit_mb",
}
"""Arguments that verl may add and that are of no use here."""
logger = logging.getLogger(__name__)
_wondered: set[str] = set()

__all__ = ["compute_score", "compute_score_sync"]


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    *,
    url: str | None = None,
    api_key: str | None = None,
    deadline_s: float | None = None,
    concurrency: int = CONCURRENCY,
    rubric: str = "general",
    method: Method = "pointwise",
    reward: RewardKind = "expected",
    normalize: Normalization = "none",
    group_size: int | None = None,
    group_timeout_s: float = 60.0,
    prompt_key: str = "question",
    image_key: str = "images",
    baseline_key: str = "baseline",
    unscored: str = "nan",
    run: str | None = None,
    **others: Any,
) -> dict[str, float | str]:
    """Judge one completion.

    Args:
        data_source: not used.
        solution_str: the completion.
        ground_truth: not used.
        extra_info: what the data set says of the row.
        url: the judge service; None takes the environment's FLEX_JUDGE_URL.
        api_key: its key; None takes the environment's FLEX_JUDGE_API_KEY.
        deadline_s: seconds that a call may take, by default 600.
        concurrency: requests under way at a time in each of verl's reward workers.
        rubric: name of a rubric.
        method, reward, normalize: how completions are judged and what counts, see `flex_judge.reward.types.RewardSpec`.
        group_size: completions of a prompt (verl's rollout.n), where they are compared with each other: the service
            collects them from all workers.
        group_timeout_s: how long it waits for them, in seconds.
        prompt_key: where `extra_info` has the prompt, as text or messages.
        image_key: where it has the prompt's images, if there are any.
        baseline_key: where it has the answer to compare with, for the method `baseline`.
        unscored: the `score` of a completion that has none. `nan`: verl's GRPO then has no advantage for its whole
            group and FSDP actors leave out that update, as its gradient is not finite: nothing is learnt from it, but
            a few of them cost much. `mean`: 0, which with `normalize` is the mean of its group, hence no advantage.
            `raise`: the run ends.
        run: a name that tells this run's groups from those of others on the same service; verl's workers have none in
            common, so say one (the experiment's) where a group_size is given.
        others: what verl adds.

    Returns:
        The same keys always: `score`; `judge_ok`, 1 or 0 for unscored; `judge_score` and `judge_expected`, the written
        and the expected score, NaN where there is none; `judge_whole`, 1 if judged in time and in a complete group;
        `judge_status`.

    Raises:
        UsageError: a setting or row that cannot be used, or a service that refuses it.
        ServiceUnavailableError: the service judges nothing, call after call.
        UnscoredError: with unscored="raise".
    """
    del data_source, ground_truth  # not what the judge goes by
    spec = RewardSpec(rubric, method, reward, normalize, group_size, group_timeout_s)
    fill = _get_fill_value(unscored, spec)
    client = _create_client(url, api_key, deadline_s, concurrency)
    _warn_of_unknown_settings(others)
    baseline = baseline_key if method == "baseline" else None
    sample = replace(_build_sample(solution_str, extra_info or {}, prompt_key, image_key, baseline), group=run)
    try:
        (found,) = await client.rewards([sample], spec)
    except ServiceTimeoutError as e:
        logger.warning("%s", e)
        found = Reward(None, Status.TIMEOUT, detail=str(e))
    if found.value is None and fill is None:
        raise UnscoredError(f"a completion has no score ({found.status}: {found.detail}), and unscored is 'raise'")
    return {
        "score": found.value if found.value is not None else fill if fill is not None else math.nan,
        "judge_ok": float(found.value is not None),
        "judge_score": math.nan if found.score is None else found.score,
        "judge_expected": math.nan if found.expected is None else found.expected,
        "judge_whole": float(found.group.is_complete and not found.group.late),
        "judge_status": str(found.status),
    }


def compute_score_sync(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, float | str]:
    """As `compute_score`, for those of verl's reward managers that do not await."""
    from flex_judge.judges.concurrency import run_in_background

    return run_in_background(compute_score(data_source, solution_str, ground_truth, extra_info, **settings))


def _get_fill_value(unscored: str, spec: RewardSpec) -> float | None:
    """The score of the unscored; None where they are an error."""
    if unscored == "mean" and spec.normalize == "none":
        raise UsageError("unscored='mean' needs normalize 'center' or 'standardize': only then is 0 a group's mean")
    fills = {"nan": math.nan, "mean": 0.0, "raise": None}
    if unscored not in fills:
        raise UsageError(f"unscored must be one of {', '.join(fills)}, not {unscored!r}")
    return fills[unscored]


def _create_client(url: str | None, api_key: str | None, deadline_s: float | None, concurrency: int) -> JudgeClient:
    url = url or os.environ.get(URL_VARIABLE)
    if not url:
        raise UsageError(f"no judge service: set reward_kwargs.url, or {URL_VARIABLE} in the workers' environment")
    client = resolve_judge(str(url), api_key, deadline_s, concurrency=concurrency)
    assert isinstance(client, JudgeClient)
    return client


def _build_sample(
    response: str, row: Mapping[str, Any], prompt_key: str, image_key: str, baseline: str | None
) -> Sample:
    for key, what in ((prompt_key, "the prompt"), (baseline, "the answer to compare with")):
        if key is not None and row.get(key) is None:
            known = ", ".join(repr(str(name)) for name in row) or "nothing"
            raise UsageError(f"extra_info has no {key!r} with {what}, but {known}; put it there, or name its key")
    images = to_list(row.get(image_key))
    images = [] if images is None else images if isinstance(images, list) else [images]
    return RowConverter().build_sample(row[prompt_key], response, images, None if baseline is None else row[baseline])


def _warn_of_unknown_settings(others: Mapping[str, Any]) -> None:
    """Say once that a setting is not known here; verl may have added it, or it is misspelt."""
    unknown = others.keys() - VERL_ARGUMENTS - _wondered
    if unknown:
        _wondered.update(unknown)
        logger.warning("compute_score does not know %s, and goes on without", ", ".join(sorted(unknown)))
