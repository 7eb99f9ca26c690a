"""The judge as verl's custom reward function: one completion per call, over HTTP.

In verl's configuration, use `pkg://flex_judge.reward.verl` or the path of this file:

    reward.custom_reward_function.path=pkg://flex_judge.reward.verl
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.url=http://10.0.0.1:8000

The reward managers `naive`, `dapo` and `gdpo` await the function. `remote`, and verl before 0.6, do not; use
`compute_score_sync` with them. Do not use the manager `rate_limited`: it turns every error, and its own timeout, into a
reward of 0. The client limits its concurrency itself.

The judge sees the prompt under `prompt_key` in the data set's `extra_info`, else the messages of the rollout, which the
managers `naive` and `remote` pass as `raw_prompt`; `dapo` and `gdpo` do not.

Rewards that compare completions need to know which belong together. verl calls the function once per completion, from
any of its reward workers, but each row has the id of its prompt in this step. `JudgeRewardManager` passes that id and
`rollout.n` on, so that the service collects whole groups:

    reward.reward_manager.source=importlib
    reward.reward_manager.name=JudgeRewardManager
    reward.reward_manager.module.path=pkg://flex_judge.reward.verl
"""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from flex_judge.judges.conversations.columns import MEDIA_COLUMNS
from flex_judge.judges.conversations.messages import View
from flex_judge.judges.errors import UsageError
from flex_judge.judges.judgments import Status
from flex_judge.judges.media.types import Modality
from flex_judge.reward.client.client import URL_VARIABLE, JudgeClient
from flex_judge.reward.integrations.local import resolve_judge
from flex_judge.reward.integrations.rows import RowConverter
from flex_judge.reward.integrations.single_completions import (
    GROUP_KEY,
    GROUP_SIZE_KEY,
    ROLLOUT_PROMPT_KEY,
    choose_value,
    get_fill_value,
    require_group_size,
)
from flex_judge.reward.types import Method, Normalization, RewardKind, RewardSpec

# Do not define dataclasses here: they look up their module in sys.modules, and verl may load this file by its path
# without registering it there.

CONCURRENCY = 64
PROMPT_KEY = "question"
"""Key of the prompt in `extra_info`, without a `prompt_key`; if it is missing, the rollout's messages are used."""
GROUP_FIX = "use the reward manager JudgeRewardManager, or set reward_kwargs.group_size to rollout.n"
VERL_ARGUMENTS = {
    "reward_router_address",
    "reward_model_tokenizer",
    "sandbox_fusion_url",
    "concurrent_semaphore",
    "memory_limit_mb",
}
"""Arguments that verl may add and that are not used here."""
logger = logging.getLogger(__name__)
_reported_settings: set[str] = set()

__all__ = ["JudgeRewardManager", "compute_score", "compute_score_sync"]  # noqa: F822 - the first one is loaded on access


def __getattr__(name: str) -> Any:
    if name == "JudgeRewardManager":  # only here is verl itself imported
        from flex_judge.reward.integrations.verl_manager import JudgeRewardManager

        return JudgeRewardManager
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
    prompt_key: str | None = None,
    image_key: str = "images",
    video_key: str = "videos",
    audio_key: str = "audios",
    view: View = "full",
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
        extra_info: the row's extra fields, with the prompt, its media and `tools`.
        url: URL of the judge service; None reads the environment variable FLEX_JUDGE_URL.
        api_key: API key of the service; None reads the environment variable FLEX_JUDGE_API_KEY.
        deadline_s: time limit of a call in seconds (default 600).
        concurrency: maximum number of concurrent requests of each reward worker.
        rubric: name of a rubric.
        method: how completions are compared, see `flex_judge.reward.types.RewardSpec`.
        reward: statistic that becomes the reward.
        normalize: normalization within a group.
        group_size: number of completions of a prompt (verl's rollout.n), if they are compared with each other. The
            service collects them from all workers. With `JudgeRewardManager`, None means rollout.n;
            rollout.val_kwargs.n must then be the same.
        group_timeout_s: seconds that the service waits for the completions of a group.
        prompt_key: key of the prompt in `extra_info`, as text or messages. None uses `question` if there is such a key,
            else the messages of the rollout, `raw_prompt`.
        image_key: key of the prompt's images in `extra_info`; the field is optional, and so are the next two.
        video_key: key of the prompt's videos in `extra_info`.
        audio_key: key of the prompt's audio clips in `extra_info`.
        view: what the judge sees of a completion with several messages: `full`, or the `final` answer.
        baseline_key: key of the answer to compare with in `extra_info`, for the method `baseline`.
        unscored: the `score` of a completion without a score. `nan`: verl's GRPO then computes no advantage for its
            group, and FSDP actors skip that update because its gradient is not finite; nothing wrong is learned, but
            each case costs an update. `mean`: 0, which is the group's mean with `normalize`, so the advantage is 0.
            `raise`: the run ends.
        run: name that separates the groups of this run from other runs on the same service. verl's workers share no
            run id, so set it (to the experiment's name) together with group_size. `JudgeRewardManager` does without.
        others: further arguments of verl.

    Returns:
        The same keys in every call: `score`; `judge_ok` (1, or 0 if unscored); `judge_score` and `judge_expected`, the
        written and the expected score (NaN if missing); `judge_whole`, 1 if judged in time and in a complete group;
        `judge_status`.

    Raises:
        UsageError: a setting is invalid, the row has no prompt, or completions are to be compared but their number is
            not known. A row that cannot be judged has no score and the `judge_status` `invalid_input`.
        ServiceUnavailableError: the service judges nothing in consecutive calls.
        UnscoredError: the completion has no score, and unscored is "raise".
    """
    del data_source, ground_truth  # required by verl's interface
    info = _check_extra_info(extra_info)
    group_size = info.get(GROUP_SIZE_KEY) if group_size is None and GROUP_KEY in info else group_size
    spec = RewardSpec(rubric, method, reward, normalize, group_size, group_timeout_s)
    require_group_size(spec, GROUP_FIX)
    fill_value = get_fill_value(unscored, spec)
    client = _create_client(url, api_key, deadline_s, concurrency)
    _warn_of_unknown_settings(others)
    baseline = baseline_key if method == "baseline" else None
    columns = {
        Modality.IMAGE: (image_key, "image"),
        Modality.VIDEO: (video_key, "video"),
        Modality.AUDIO: (audio_key, "audio"),
    }
    converter = RowConverter(view, {**MEDIA_COLUMNS, **columns})
    row = _build_row(solution_str, info, prompt_key, baseline)
    group = " ".join(str(name) for name in (run, info.get(GROUP_KEY)) if name) or None
    (result,) = await converter.convert_rows([{**row, "group": group}], "extra_info").judge(client, spec)
    if result.status == Status.INVALID_INPUT:
        logger.warning("a completion cannot be judged: %s", result.detail)
    score = choose_value(result, fill_value)
    # verl collects these values into columns, so every call must return the same keys.
    return {
        "score": score,
        "judge_ok": float(result.value is not None),
        "judge_score": math.nan if result.score is None else result.score,
        "judge_expected": math.nan if result.expected is None else result.expected,
        "judge_whole": float(result.is_whole),
        "judge_status": str(result.status),
    }


def compute_score_sync(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **settings: Any
) -> dict[str, float | str]:
    """Judge one completion for a reward manager that does not await, see `compute_score`."""
    from flex_judge.judges.concurrency import run_in_background

    return run_in_background(compute_score(data_source, solution_str, ground_truth, extra_info, **settings))


def _create_client(url: str | None, api_key: str | None, deadline_s: float | None, concurrency: int) -> JudgeClient:
    url = url or os.environ.get(URL_VARIABLE)
    if not url:
        raise UsageError(f"no judge service: set reward_kwargs.url, or {URL_VARIABLE} in the workers' environment")
    client = resolve_judge(str(url), api_key, deadline_s, concurrency=concurrency)
    assert isinstance(client, JudgeClient)
    return client


def _check_extra_info(extra_info: Any) -> Mapping[str, Any]:
    if extra_info is None:
        return {}
    if not isinstance(extra_info, Mapping):
        raise UsageError(
            f"extra_info: expected an object with the prompt, got {extra_info!r:.80}; parse JSON text first"
        )
    return extra_info


def _build_row(
    response: str, row: Mapping[str, Any], prompt_key: str | None, baseline_key: str | None
) -> dict[str, Any]:
    """Build the arguments of `RowConverter.build_sample`.

    A missing key is a wrong setting. A null value is a fault of this row: tables fill missing values with null.
    """
    if prompt_key is None:
        prompt_key = PROMPT_KEY if PROMPT_KEY in row or ROLLOUT_PROMPT_KEY not in row else ROLLOUT_PROMPT_KEY
    for option, key, content in (
        ("prompt_key", prompt_key, "the prompt"),
        ("baseline_key", baseline_key, "the answer to compare with"),
    ):
        if key is not None and key not in row:
            keys = ", ".join(repr(str(name)) for name in row) or "none"
            raise UsageError(
                f"extra_info: expected {content} under {key!r}, found the keys {keys}; add it, or set "
                f"reward_kwargs.{option}"
            )
    baseline = None if baseline_key is None else row[baseline_key]
    values = {"prompt": row[prompt_key], "response": response, "columns": row, "baseline": baseline}
    return values | {"baseline_column": baseline_key}


def _warn_of_unknown_settings(settings: Mapping[str, Any]) -> None:
    """Warn once about each unknown setting: either a newer verl added it, or it is misspelled."""
    unknown = settings.keys() - VERL_ARGUMENTS - _reported_settings
    if unknown:
        _reported_settings.update(unknown)
        hints = {
            name: get_close_matches(name, inspect.signature(compute_score).parameters, n=1) for name in sorted(unknown)
        }
        names = [f"{name} (did you mean {close[0]}?)" if close else name for name, close in hints.items()]
        logger.warning("compute_score ignores unknown settings: %s", ", ".join(names))
