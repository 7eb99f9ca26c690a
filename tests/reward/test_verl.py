"""The judge as verl calls it: loaded by path, wrapped in a partial, one completion per call, a batch concurrently."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import inspect
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_service import FakeService, hang, refuse, return_unscored

import flex_judge.reward.verl as verl_module
from flex_judge.judges.errors import ServiceUnavailableError, UnscoredError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.reward.verl import compute_score, compute_score_sync

KEYS = {"score", "judge_ok", "judge_score", "judge_expected", "judge_whole", "judge_status"}
RED = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
ROW = {"split": "train", "index": 3, "question": "What is 12 + 30?"}


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


def build_call(service: FakeService, **more: Any) -> dict[str, Any]:
    """Build a call of verl's NaiveRewardManager, including reward_kwargs."""
    call = {"data_source": "sums", "solution_str": "It is 42.", "ground_truth": "42", "extra_info": dict(ROW)}
    return call | {"url": service.url, "deadline_s": 30} | more


async def call_loaded_function(path: Path, settings: dict[str, Any], call: dict[str, Any]) -> Any:
    """Call like verl: run the file without registering a module, and call the function through a partial."""
    spec = importlib.util.spec_from_file_location("custom_module_123", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    async def with_settings(function: Any, extra: dict[str, Any], **kwargs: Any) -> Any:
        return await function(**kwargs, **extra)

    assert inspect.iscoroutinefunction(module.compute_score)
    wrapped = partial(with_settings, module.compute_score, settings)
    assert inspect.iscoroutinefunction(wrapped)
    return await wrapped(**call)


async def test_scores_a_completion(service: FakeService) -> None:
    call = build_call(service)
    settings = {"url": call.pop("url"), "deadline_s": call.pop("deadline_s")}
    result = await call_loaded_function(Path(verl_module.__file__), settings, call)
    assert result == {
        "score": 9,
        "judge_ok": 1,
        "judge_score": 9,
        "judge_expected": 9,
        "judge_whole": 1,
        "judge_status": "ok",
    }
    (row,) = service.seen[0].body["samples"]
    assert row["prompt"] == [{"role": "user", "content": "What is 12 + 30?"}]


async def test_judges_a_batch_concurrently(service: FakeService) -> None:
    async def slow(request: Any) -> Any:
        await asyncio.sleep(0.2)
        return await service.answer(request)

    service.always = slow
    calls = [compute_score(**build_call(service, solution_str="x" * i)) for i in range(24)]
    assert [result["score"] for result in await asyncio.gather(*calls)] == list(range(24))
    assert service.max_concurrent > 8


def test_sync_function_gives_the_same_result(service: FakeService) -> None:
    assert compute_score_sync(**build_call(service))["score"] == 9


async def test_failures_return_the_same_keys_without_numbers(service: FakeService) -> None:
    service.script.append(return_unscored(Status.UNPARSEABLE))
    failed = await compute_score(**build_call(service))
    service.script.append(hang)
    silent = await compute_score(**build_call(service, deadline_s=0.2))
    scored = await compute_score(**build_call(service))
    assert set(failed) == set(silent) == set(scored) == KEYS
    assert [type(value) for value in failed.values()] == [type(value) for value in silent.values()]
    for result, status in ((failed, "unparseable"), (silent, "timeout")):
        assert math.isnan(result["score"])
        assert math.isnan(result["judge_score"])
        assert (result["judge_ok"], result["judge_status"]) == (0, status)


async def test_unscored_completions_get_the_mean_or_raise(service: FakeService) -> None:
    service.always = return_unscored(Status.TRUNCATED)
    centred = build_call(service, unscored="mean", normalize="center", group_size=4, group_timeout_s=5)
    result = await compute_score(**centred)
    assert (result["score"], result["judge_ok"]) == (0, 0)
    with pytest.raises(UsageError, match="unscored='mean' needs normalize"):
        await compute_score(**build_call(service, unscored="mean"))
    with pytest.raises(UnscoredError, match="truncated: not today"):
        await compute_score(**build_call(service, unscored="raise"))
    with pytest.raises(UsageError, match="unscored must be one of nan, mean, raise"):
        await compute_score(**build_call(service, unscored="zero"))


async def test_an_outage_ends_the_run(service: FakeService) -> None:
    service.always = hang
    calls = [compute_score(**build_call(service, deadline_s=0.5)) for _ in range(8)]
    assert all(math.isnan(result["score"]) for result in await asyncio.gather(*calls))
    with pytest.raises(ServiceUnavailableError, match="no judgments since"):
        await compute_score(**build_call(service, deadline_s=0.2))


async def test_rejects_invalid_rows_and_settings(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UsageError, match="extra_info: expected the prompt under 'question', found the keys 'split', 'index'"
    ):
        await compute_score(**build_call(service, extra_info={"split": "train", "index": 3}))
    with pytest.raises(UsageError, match="extra_info: expected the prompt under 'question', found the keys none"):
        await compute_score("sums", "It is 42.", "42", url=service.url)
    with pytest.raises(UsageError, match="expected the answer to compare with under 'baseline'"):
        await compute_score(**build_call(service, method="baseline"))
    service.script.append(refuse(422, "rubric 'mine' does not exist"))
    with pytest.raises(UsageError, match="rubric 'mine' does not exist"):
        await compute_score(**build_call(service, rubric="mine"))
    monkeypatch.delenv("FLEX_JUDGE_URL", raising=False)
    with pytest.raises(UsageError, match=r"set reward_kwargs.url, or FLEX_JUDGE_URL"):
        await compute_score(**build_call(service, url=None))


async def test_reads_url_and_key_from_the_environment(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEX_JUDGE_URL", service.url)
    monkeypatch.setenv("FLEX_JUDGE_API_KEY", "secret")
    assert (await compute_score("sums", "It is 42.", "42", extra_info=ROW))["score"] == 9
    assert service.seen[0].headers["authorization"] == "Bearer secret"


@pytest.mark.parametrize("missing", [None, math.nan])
async def test_a_row_with_a_null_prompt_or_baseline_has_a_status(service: FakeService, missing: Any) -> None:
    row = {"question": missing, "baseline": "41"}
    assert (await compute_score(**build_call(service, extra_info=row)))["judge_status"] == "invalid_input"
    row = {"question": "How many?", "baseline": missing}
    result = await compute_score(**build_call(service, extra_info=row, method="baseline", reward="win_rate"))
    assert result["judge_status"] == "invalid_input"


async def test_extra_info_as_json_text_is_an_error_that_says_so(service: FakeService) -> None:
    with pytest.raises(UsageError, match="extra_info: expected an object with the prompt"):
        await compute_score(**build_call(service, extra_info='{"question": "How many?"}'))


async def test_reads_prompts_images_and_baselines_from_parquet_rows(service: FakeService) -> None:
    picture = {"bytes": base64.b64decode(RED), "path": None}
    text = {"type": "text", "text": "What is it?", "image": None}
    message = {"role": "user", "content": np.array([{"type": "image", "text": None}, text], dtype=object)}
    row = {
        "prompt": np.array([message], dtype=object),
        "pictures": np.array([picture], dtype=object),
        "reference": "A circle.",
    }
    keys = {"prompt_key": "prompt", "image_key": "pictures", "baseline_key": "reference"}
    call = build_call(service, extra_info=row, method="baseline", reward="win_rate", **keys)
    assert (await compute_score(**call))["judge_ok"] == 1
    (sent,) = service.seen[0].body["samples"]
    assert sent["baseline"] == "A circle."
    assert [part["type"] for part in sent["prompt"][0]["content"]] == ["image", "text"]
    assert len(service.uploads) == 1


async def test_warns_once_about_unknown_settings_but_not_about_verl_arguments(
    service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        await compute_score(**build_call(service, rubrik="mine", reward_router_address=None))
    assert caplog.text.count("ignores unknown settings: rubrik") == 1
    assert "router" not in caplog.text


async def test_sends_the_run_name_as_group_name(service: FakeService) -> None:
    await compute_score("x", "four", None, {"question": "Q?"}, url=service.url, group_size=1, run="mine")
    assert service.seen[-1].body["samples"][0]["group"] == "mine"


async def test_without_a_question_the_messages_of_the_rollout_are_the_prompt(service: FakeService) -> None:
    messages = np.array([{"role": "user", "content": "From the rollout?"}], dtype=object)
    await compute_score(**build_call(service, extra_info={"index": 3, "raw_prompt": messages}))
    await compute_score(**build_call(service, extra_info={**ROW, "raw_prompt": messages}))
    prompts = [request.body["samples"][0]["prompt"][0]["content"] for request in service.seen]
    assert prompts == ["From the rollout?", "What is 12 + 30?"]


async def test_a_group_is_named_by_its_uid_and_has_rollout_n_members(service: FakeService) -> None:
    row, settings = {**ROW, "uid": "a1", "rollout_n": 1}, {"normalize": "center", "group_timeout_s": 5}
    await compute_score(**build_call(service, extra_info=row, **settings))
    await compute_score(**build_call(service, extra_info=row, run="mine", group_size=2, **settings))
    bodies = [request.body for request in service.seen]
    assert [body["samples"][0]["group"] for body in bodies] == ["a1", "mine a1"]
    assert [body["group_size"] for body in bodies] == [1, 2]


async def test_a_comparison_without_a_group_size_is_an_error(service: FakeService) -> None:
    with pytest.raises(UsageError, match=r"group_size is missing: .*JudgeRewardManager"):
        await compute_score(**build_call(service, method="round_robin", reward="win_rate"))
    assert not service.seen
