"""Checks before anything starts: models, columns, memory and access, each in seconds and without an engine or Ray."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from flex_judge.alignment.data.prompts import CHECKED_ROWS as NAMED_ROWS
from flex_judge.alignment.data.prompts import PromptColumns, find_columns, read_prompts
from flex_judge.alignment.data.sources import Source
from flex_judge.alignment.pipeline.judge_service import RemoteJudge
from flex_judge.alignment.policies.config import ENDPOINT_ENGINE, PolicyConfig, load_policy
from flex_judge.judges.concurrency import run_in_background
from flex_judge.judges.engines import ENGINES, check_engine, resolve_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.engines.hardware import GIB, has_accelerators
from flex_judge.judges.errors import AccessError, EngineLostError, ServiceUnavailableError, UsageError
from flex_judge.judges.io.http import describe_no_response
from flex_judge.judges.models.embedded import EMBEDDED
from flex_judge.judges.protocol.settings import JudgeConfig
from flex_judge.reward.client.client import HEALTH_TIMEOUT_S, KEY_VARIABLE
from flex_judge.reward.serving.cluster import check_memory

CHECKED_ROWS = 20
"""Number of rows that are read before a run starts; if none of them can be used, a setting is wrong, not a row."""
ENGINE_GIB = {"vllm": 1.9, "transformers": 1.5, "remote": 0.4, "scripted": 0.4}
"""Memory of an engine in GiB without its weights: peak of a default run of the demo, divided by its engines."""
RAY_GIB = 0.5
"""Memory of a local Ray and of the process that starts it, in GiB."""


def check_judge(judge: JudgeConfig) -> None:
    """Check that a judge can be loaded and that a prompt and its reply fit into the context.

    Raises:
        UsageError: the judge cannot be loaded, or its context holds no prompt.
    """
    check_engine(judge.engine)
    settings, limit = judge.settings, judge.engine.max_model_len
    if settings.max_think_tokens + settings.max_answer_tokens >= limit:
        raise UsageError(
            f"max_think_tokens ({settings.max_think_tokens}) and max_answer_tokens ({settings.max_answer_tokens}) "
            f"leave no room for a prompt in max_model_len ({limit}); lower the first, or raise the last"
        )


def check_models(
    policies: Sequence[PolicyConfig],
    judges: Sequence[JudgeConfig | RemoteJudge],
    rubrics: Sequence[str],
    *,
    is_local: bool,
) -> None:
    """Check the models of a run over prompts.

    Args:
        policies: configuration of the policy, once per replica.
        judges: configuration of the judge, once per replica, or a running service.
        rubrics: names and files of the rubrics, which a service must take.
        is_local: whether the replicas run on this machine.

    Raises:
        JudgeError: a model cannot be loaded, a service cannot be used, or the replicas do not fit into the memory.
    """
    check_policy_access(policies[0])
    engines: list[EngineConfig] = [policy for policy in policies if policy.kind != ENDPOINT_ENGINE]
    if isinstance(judges[0], JudgeConfig):
        check_judge(judges[0])
        engines += [judge.engine for judge in judges if isinstance(judge, JudgeConfig)]
    else:
        check_service_access(judges[0], rubrics)
    if engines and is_local:
        check_engine_memory(engines, "this run", "use fewer --replicas and --policy-replicas", uses_ray=True)


def check_engine_memory(engines: Sequence[EngineConfig], command: str, hint: str, uses_ray: bool) -> None:
    """Check that engines on the CPUs of this machine fit into its free memory.

    Args:
        engines: configuration of each engine, once per replica.
        command: name of the command in the error message.
        hint: how to need less memory.
        uses_ray: whether a local Ray is started too.

    Raises:
        UsageError: they need more memory than is free.
    """
    if not has_accelerators():
        check_memory(estimate_memory_gib(engines) + RAY_GIB * uses_ray, command, hint)


def estimate_memory_gib(engines: Sequence[EngineConfig]) -> float:
    """Estimate the least memory of engines on CPUs in GiB; the weights of a hub model are unknown and not counted."""
    # The memory of a policy that another package provides is unknown.
    known_engines = [engine for engine in engines if engine.engine == "auto" or engine.engine in ENGINES]
    return sum(ENGINE_GIB.get(resolve_engine(e.engine, e.model), 0.0) + _measure_weights_gib(e) for e in known_engines)


def check_policy_access(config: PolicyConfig) -> None:
    """Check that the endpoint of a policy answers and accepts the key; other policies are not contacted.

    Raises:
        AccessError: the endpoint rejects the key, or does not have the model.
        ServiceUnavailableError: the endpoint does not answer.
    """
    if config.kind == ENDPOINT_ENGINE:
        try:
            run_in_background(load_policy(config).check_health())
        except EngineLostError as e:
            raise ServiceUnavailableError(f"--policy-url: {e}") from e
        except AccessError as e:
            raise AccessError(f"--policy-url: {e}") from e


def check_service_access(service: RemoteJudge, rubrics: Sequence[str]) -> None:
    """Check that a judge service is healthy, takes the rubrics of a run, and accepts its key.

    Raises:
        ServiceUnavailableError: the service does not answer, or is starting or draining.
        UsageError: the service takes no rubrics from requests.
        AccessError: the service rejects the key.
    """
    import httpx

    service.check(rubrics)
    client = service.client
    key = client.api_key or os.environ.get(KEY_VARIABLE, "").strip()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    # The health report needs no key. An empty request does, and judges nothing.
    try:
        response = httpx.post(
            f"{client.url}/v1/judge", json={"comparisons": []}, headers=headers, timeout=HEALTH_TIMEOUT_S
        )
    except httpx.TransportError as e:
        raise ServiceUnavailableError(f"{client.url}: {describe_no_response(e)}") from e
    if response.status_code in (401, 403):
        problem = "the key is not accepted" if key else "the service needs a key"
        raise AccessError(
            f"{client.url}: {response.status_code}: {problem}; give the right one with --judge-key or {KEY_VARIABLE}"
        )


def check_columns(source: Source, columns: PromptColumns) -> None:
    """Check that the first rows can be read with a column mapping.

    Single rows may be invalid: they fail on their own and the run continues.

    Raises:
        UsageError: none of the first rows can be read, or a mapped column occurs in none of them.
    """
    # The rows report a missing prompt themselves.
    mapped = {column: field for field, column in columns.list_mapped() if field != "prompt"}
    names, _ = find_columns(source, mapped, columns.needs_column)
    for column, field in mapped.items():
        if names and column not in names:
            place = "" if len(source) <= NAMED_ROWS else f"in its first {NAMED_ROWS:,} rows "
            raise UsageError(
                f"--column {field}={column}: {source.name} has {place}no such column; the columns are "
                f"{', '.join(names)}"
            )
    problems = []
    for row in read_prompts(source, 0, min(len(source), CHECKED_ROWS), columns):
        if not isinstance(row, UsageError):
            return
        problems.append(row)
    raise UsageError(
        f"none of the first {len(problems)} rows can be used; the first: {problems[0]}"
        if len(problems) > 1
        else str(problems[0])
    )


def _measure_weights_gib(config: EngineConfig) -> float:
    if config.model in EMBEDDED:
        return EMBEDDED[config.model].gib
    folder = Path(config.model).expanduser()
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / GIB if folder.is_dir() else 0.0
