"""Reward functions for TRL's trainers, over HTTP and with a judge in the same process."""

from __future__ import annotations

import asyncio
import logging
import math
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
from fake_service import FakeService, hang, impatient_client, make_client, return_unscored
from scripts import SETTINGS, fair_judge, judge
from training import logged, questions, two_steps

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import ServiceTimeoutError, ServiceUnavailableError, UnscoredError, UsageError
from flex_judge.judges.judgments import Status
from flex_judge.judges.media import opening as media
from flex_judge.judges.validation.classes import get_field_types
from flex_judge.reward.client import JudgeClient
from flex_judge.reward.integrations import training as run_id
from flex_judge.reward.settings import RewardFields, RewardSettings
from flex_judge.reward.trl import AsyncJudgeReward, JudgeReward


def judge_or_mumble(prompt: str, sampling: Sampling) -> str:
    return judge(prompt, sampling) if sampling.stop or "mumble" not in prompt else "<answer>mumble</answer>"


@pytest.fixture
def local() -> JudgeReward:
    engine = ScriptedEngine(judge_or_mumble)
    return JudgeReward(FlexJudge(engine, replace(SETTINGS, forced_answer=False)), rubric="correctness")


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


class Log:
    """Logging functions and state that TRL passes to reward functions."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.columns: dict[str, list[Any]] = {}

    @property
    def offered(self) -> dict[str, Any]:
        return {
            "log_metric": self.metrics.__setitem__,
            "log_extra": self.columns.__setitem__,
            "trainer_state": SimpleNamespace(global_step=7),
        }


def test_every_completion_gets_its_score_in_order(local: JudgeReward) -> None:
    texts = [f"answer {i}" for i in range(6)]
    one_by_one = [local(["Question?"], [text])[0] for text in texts]
    assert local(["Question?"] * 6, texts) == one_by_one
    assert len(set(one_by_one)) > 1


def test_messages_score_like_their_text(local: JudgeReward) -> None:
    prompt = [{"role": "user", "content": "Question?"}]
    assert local([prompt], [[{"role": "assistant", "content": "answer"}]]) == local(["Question?"], ["answer"])


def test_returns_none_for_an_unparseable_verdict(local: JudgeReward) -> None:
    scores = local(["Question?"] * 2, ["mumble", "answer"], completion_ids=[[1], [2]], answer=["1", "2"])
    assert scores[0] is None
    assert scores[1] is not None


def test_judges_an_empty_completion(local: JudgeReward) -> None:
    assert local(["Question?", "Question?"], ["", [{"role": "assistant", "content": ""}]])[0] is not None


def test_judges_tool_calls_and_results() -> None:
    engine = ScriptedEngine(judge)
    called = {"function": {"name": "add", "arguments": {"a": 12, "b": 30}}, "type": "function"}
    prompt_messages = [
        {"role": "user", "content": "What is 12 + 30?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "name": "look_up", "arguments": "{}"}]},
        {"role": "tool", "name": "look_up", "content": "nothing found"},
    ]
    completion = [
        {"role": "assistant", "reasoning_content": "I add.", "content": "", "tool_calls": [called]},
        {"role": "tool", "name": "add", "content": "42"},
        {"role": "assistant", "content": "It is 42."},
    ]
    JudgeReward(FlexJudge(engine, SETTINGS))([prompt_messages], [completion])
    prompt = engine.requests[0][0]
    shown = ["name=look_up", "nothing found", "I add.", "name=add", '{"a": 12, "b": 30}', "It is 42."]
    assert all(text in prompt for text in shown)
    assert sorted(shown, key=prompt.index) == shown


def test_groups_the_doubled_prompt_list_of_online_dpo() -> None:
    reward = JudgeReward(FlexJudge(ScriptedEngine(fair_judge), SETTINGS), method="round_robin", reward="win_rate")
    prompts = [[{"role": "user", "content": f"Question {i}?"}] for i in range(3)]
    completions = [[{"role": "assistant", "content": f"answer {i}"}] for i in range(6)]
    values = reward(prompts=2 * prompts, completions=completions, completion_ids=[[0]] * 6, answer=["x"] * 6)
    assert all(values[i] is not None for i in range(6))
    assert [(values[i] or 0) + (values[i + 3] or 0) for i in range(3)] == [1, 1, 1]


@pytest.mark.slow  # importing TRL takes half a minute
@pytest.mark.parametrize("reward", [JudgeReward, AsyncJudgeReward])
def test_trl_sees_a_name_and_whether_to_await(service: FakeService, reward: type) -> None:
    from trl.trainer.utils import get_callable_name, is_async_callable

    assert get_callable_name(reward(service.url)) == "flex_judge"
    assert get_callable_name(reward(service.url, name="helpful")) == "helpful"
    assert is_async_callable(reward(service.url)) == (reward is AsyncJudgeReward)


async def test_sync_and_async_functions_agree(service: FakeService, local: JudgeReward) -> None:
    call: dict[str, Any] = {"prompts": ["Question?"] * 2, "completions": ["four", "fives"]}
    assert JudgeReward(make_client(service))(**call) == [4, 5]
    assert await AsyncJudgeReward(make_client(service))(**call) == [4, 5]
    assert await asyncio.to_thread(JudgeReward(make_client(service)), **call) == [4, 5]  # like AsyncGRPOTrainer
    judge = FlexJudge(ScriptedEngine(judge_or_mumble), SETTINGS)
    assert await AsyncJudgeReward(judge, rubric="correctness")(**call) == local(**call)


def test_pickles_with_a_url_but_not_with_a_local_judge(service: FakeService, local: JudgeReward) -> None:
    reward = JudgeReward(make_client(service), rubric="correctness", name="helpful")
    reward(["Question?"], ["four"])
    copy = pickle.loads(pickle.dumps(reward))
    assert copy(["Question?"], ["four"]) == [4]
    assert copy.__name__ == "helpful"
    assert service.seen[-1].body["rubric"] == "correctness"
    with pytest.raises(UsageError, match=r"serve the judge .* and give its URL"):
        pickle.dumps(local)


def test_sends_the_settings_to_the_service(service: FakeService) -> None:
    reward = JudgeReward(
        make_client(service),
        rubric="correctness",
        method="round_robin",
        reward="win_rate",
        normalize="center",
        group_size=2,
        group_timeout_s=2,
        run="mine",
    )
    reward(["Question?"] * 2, ["a", "b"], **Log().offered)
    body = service.seen[0].body
    assert {name: value for name, value in body.items() if name not in ("samples", "deadline_s")} == {
        "rubric": "correctness",
        "method": "round_robin",
        "reward": "win_rate",
        "normalize": "center",
        "group_size": 2,
        "group_timeout_s": 2,
    }
    assert {row["group"] for row in body["samples"]} == {
        "mine step 7"
    }  # completions of later steps must not join the group


def test_each_start_of_a_run_has_its_own_group_names(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups of two runs, or of a killed run and its restart, must stay separate."""

    def group() -> str:
        monkeypatch.setattr(run_id, "_names", [])  # like in a new process
        for judged in (JudgeReward, JudgeReward):
            judged(make_client(service), group_size=2)(["Question?"] * 2, ["a", "b"], **Log().offered)
        first, second = (body.body["samples"][0]["group"] for body in service.seen[-2:])
        assert first == second  # the reward functions of one process share it
        return str(first)

    assert group().endswith(" step 7")
    assert group() != group()


def test_relative_rewards_on_several_ranks_need_a_group_size(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    reward = JudgeReward(make_client(service), method="round_robin", reward="win_rate")
    reward(["Question?"] * 2, ["a", "b"], **Log().offered)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"group_size is missing: .* 2 ranks train"):
        reward(["Question?"] * 2, ["a", "b"], **Log().offered)
    JudgeReward(make_client(service))(["Question?"], ["a"], **Log().offered)


async def test_extra_rewards_do_not_score_unscored_completions(service: FakeService) -> None:
    def short(prompts: Any, completions: Any, **rest: Any) -> list[float | None]:
        assert rest["answer"] == ["1", "2", "3"]
        return [None, 1.0, 2.0]

    async def slow(**call: Any) -> list[float]:
        return [3.0] * len(call["completions"])

    judge = FlexJudge(ScriptedEngine(judge_or_mumble), replace(SETTINGS, forced_answer=False))
    call: dict[str, Any] = {
        "prompts": ["Question?"] * 3,
        "completions": ["a", "b", "mumble"],
        "answer": ["1", "2", "3"],
    }
    alone = JudgeReward(judge)(**call)
    log = Log()
    values = JudgeReward(judge, extra_rewards=[(short, 0.5)])(**call, **log.offered)
    assert values == [alone[0], (alone[1] or 0) + 0.5, None]
    assert log.metrics["judge/extra_reward_short"] == 1.5
    both = await AsyncJudgeReward(judge, extra_rewards=[(short, 0.5), (slow, -1)])(**call)
    assert both == [(alone[0] or 0) - 3, (alone[1] or 0) + 0.5 - 3, None]
    with pytest.raises(UsageError, match="slow has to be awaited; use AsyncJudgeReward"):
        JudgeReward(judge, extra_rewards=[(slow, 1.0)])(**call)
    with pytest.raises(UsageError, match="gave 1 values for 3 completions"):
        JudgeReward(judge, extra_rewards=[(lambda **_: [1.0], 1.0)])(**call)
    with pytest.raises(UsageError, match="expected pairs of a reward function and its weight"):
        JudgeReward(judge, extra_rewards=[short])  # type: ignore[list-item]


def test_warns_if_nothing_is_scored_and_ends_the_run_if_it_continues(
    local: JudgeReward, caplog: pytest.LogCaptureFixture
) -> None:
    call: dict[str, Any] = {"prompts": ["Question?"] * 5, "completions": ["mumble"] * 5}
    for _ in range(4):
        assert local(**call, **Log().offered) == [None] * 5
    assert caplog.text.count("no score for any of 5 completions (unparseable: 5): answer 'mumble' is not a score") == 1
    assert local(["Question?"], ["answer"])[0] is not None  # resets the streak
    for _ in range(4):
        local(**call)
    with pytest.raises(UnscoredError, match="the judge has scored nothing in 5 calls in a row"):
        local(**call)


def judge_with_models(service: FakeService, *names: str) -> None:
    """Let the service report one model after the other, one for each call of one completion."""
    from starlette.responses import JSONResponse

    from flex_judge.reward.types import Reward

    models = iter(names)

    async def judge_with_next(_: Any) -> Any:
        return JSONResponse({"rewards": [Reward(0.5, Status.OK, model=next(models)).to_json()]})

    service.always = judge_with_next


def test_a_changed_judge_model_ends_the_run(service: FakeService) -> None:
    judge_with_models(service, "a@1", "", "a@1", "b@2")
    reward = JudgeReward(make_client(service))
    for _ in range(3):
        reward(["Question?"], ["four"])
    with pytest.raises(UsageError, match="the judge model changed from a@1 to b@2"):
        reward(["Question?"], ["four"])


@pytest.mark.parametrize(("reaction", "level"), [("warn", logging.WARNING), ("allow", logging.INFO)])
def test_a_judge_that_changes_on_purpose_is_logged(
    service: FakeService, caplog: pytest.LogCaptureFixture, reaction: Any, level: int
) -> None:
    judge_with_models(service, "a@1", "b@2", "", "b@2", "a@1")
    reward, changes = JudgeReward(make_client(service), on_model_change=reaction), []
    with caplog.at_level(logging.INFO, "flex_judge"):
        for _ in range(5):
            log = Log()
            assert reward(["Question?"], ["four"], **log.offered) == [0.5]
            changes.append(log.metrics["judge/model_changes"])
    assert changes == [0, 1, 1, 1, 2]
    records = [record for record in caplog.records if "the judge model changed" in record.message]
    assert [record.levelno for record in records] == [level] * 2
    assert "from a@1 to b@2 (change 1)" in records[0].message


def test_two_models_in_one_call_are_a_change(service: FakeService) -> None:
    from starlette.responses import JSONResponse

    from flex_judge.reward.types import Reward

    async def judge_by_two(_: Any) -> Any:
        return JSONResponse({"rewards": [Reward(0.5, Status.OK, model=model).to_json() for model in ("a@1", "b@2")]})

    service.always = judge_by_two
    log = Log()
    reward = JudgeReward(make_client(service), on_model_change="allow")
    reward(["Question?"] * 2, ["four", "fives"], **log.offered)
    assert (log.metrics["judge/models"], log.metrics["judge/model_changes"]) == (2, 1)
    with pytest.raises(UsageError, match="the judge model changed from a@1 to b@2"):
        JudgeReward(make_client(service))(["Question?"] * 2, ["four", "fives"])


def test_settings_are_one_object_whose_fields_can_be_replaced(service: FakeService) -> None:
    settings = RewardSettings(rubric="correctness", group_size=4, length_penalty=1.0, length_limit=1)
    reward = JudgeReward(make_client(service), settings, rubric="safety")
    assert reward.settings == replace(settings, rubric="safety")
    assert reward(["Question?"], ["one two three"]) == [13 - 2]
    body = service.seen[0].body
    assert (body["rubric"], body["group_size"]) == ("safety", 4)
    assert "length_penalty" not in body
    assert "api_key" not in repr(JudgeReward(service.url, api_key="secret" * 4).settings)


def test_settings_as_keywords_are_known_to_type_checkers() -> None:
    """The typed keywords of JudgeReward are the fields of RewardSettings, with the same types."""
    types = get_field_types(RewardSettings)
    assert get_type_hints(RewardFields, include_extras=True) == types


def test_a_rubric_in_the_place_of_the_settings_is_explained() -> None:
    with pytest.raises(UsageError, match="settings must be a RewardSettings, not 'correctness'; write rubric='corr"):
        JudgeReward("http://127.0.0.1:9", "correctness")  # type: ignore[arg-type]


def test_long_completions_lose_reward_and_unscored_ones_stay_unscored(service: FakeService) -> None:
    reward = JudgeReward(make_client(service), length_penalty=0.5, length_limit=2, max_length_penalty=2.0)
    texts = ["a b", "a b c", "a b c d", "a " * 40]
    log = Log()
    # The fake service scores texts by their length in characters.
    assert reward(["Question?"] * 4, texts, **log.offered) == [3, 5 - 0.5, 7 - 1.0, 80 - 2.0]
    assert log.metrics["judge/length_penalty"] == pytest.approx(3.5 / 4)
    assert log.columns["judge_score"] == [3, 5, 7, 80]  # what the judge wrote is unchanged
    service.always = return_unscored(Status.TRUNCATED)
    assert reward(["Question?"], ["a b c d"]) == [None]


def test_tokens_are_counted_by_the_trainer(service: FakeService, caplog: pytest.LogCaptureFixture) -> None:
    reward = JudgeReward(make_client(service), length_penalty=1.0, length_limit=3, length_unit="token")
    log = Log()
    call: dict[str, Any] = {"prompts": ["Question?"] * 2, "completions": ["four", "five!"]}
    assert reward(**call, completion_ids=[[1] * 5, [1]], **log.offered) == [4 - 2, 5]
    assert log.metrics["judge/length_mean"] == 3
    with pytest.raises(UsageError, match="passes no token counts; use length_unit 'word'"):
        reward(**call)
    assert "tool results" not in caplog.text
    called = [{"role": "assistant", "content": "four"}, {"role": "tool", "name": "f", "content": "a long result"}]
    reward(["Question?"], [called], completion_ids=[[1] * 9])
    assert "length_unit 'token' counts the tokens of tool results too" in caplog.text


def test_a_judge_that_likes_length_shows_in_the_log(service: FakeService) -> None:
    log = Log()
    prompts = ["First?"] * 3 + ["Second?"] * 3
    JudgeReward(make_client(service))(prompts, ["a", "a a", "a a a"] * 2, **log.offered)
    assert log.metrics["judge/length_slope"] == pytest.approx(2.0)  # two characters a word
    assert log.metrics["judge/length_correlation"] == pytest.approx(1.0)
    assert log.metrics["judge/length_mean"] == 2


COMPLETION_WITH_TOOLS = [
    {"role": "assistant", "content": "I add.", "tool_calls": [{"function": {"name": "add", "arguments": "{}"}}]},
    {"role": "tool", "name": "add", "content": "42"},
    {"role": "assistant", "content": "It is 42."},
]


@pytest.mark.parametrize(
    ("granularity", "combination", "value", "turns"),
    [
        ("response", "mean", 3.0, None),
        ("turn", "mean", (1 + 9) / 2, [1, 9]),
        ("step", "mean", (2 + 9) / 2, [2, 9]),
        ("step", "last", 9.0, [9]),
        ("step", "discounted", (2 + 0.5 * 9) / 1.5, [2, 9]),
    ],
)
def test_turns_and_steps_become_one_reward_per_completion(
    service: FakeService, granularity: Any, combination: Any, value: float, turns: list[float] | None
) -> None:
    reward = JudgeReward(make_client(service), granularity=granularity, combination=combination, discount=0.5)
    log = Log()
    question = [{"role": "user", "content": "Question?"}]
    unreadable = [{"role": "user", "content": [{"type": "image", "image": "http://10.0.0.1/a.png"}]}]
    # The fake service scores texts by their length, and a trajectory by its number of messages.
    rewards = reward([question, question, unreadable], [COMPLETION_WITH_TOOLS, "four", "five"], **log.offered)
    assert rewards == [pytest.approx(value), 4, None]
    assert log.columns["judge_status"] == ["ok", "ok", "invalid_input"]
    assert log.columns.get("judge_turn_rewards") == (turns and [turns, [4], [None]])
    contexts = [len(row["prompt"]) for row in service.seen[0].body["samples"]]
    if granularity != "response":
        assert max(contexts) == 3


def test_a_completion_without_a_turn_has_no_reward(service: FakeService) -> None:
    log = Log()
    results = [{"role": "tool", "name": "add", "content": "42"}]
    reward = JudgeReward(make_client(service), granularity="turn")
    assert reward(["Question?"] * 2, [results, "four"], **log.offered) == [None, 4]
    assert log.columns["judge_status"] == ["invalid_input", "ok"]
    assert "no assistant message" in log.columns["judge_reasoning"][0]


def test_sends_no_group_name_without_a_group_size(service: FakeService) -> None:
    JudgeReward(make_client(service))(["Question?"], ["a"], **Log().offered)
    assert "group" not in service.seen[0].body["samples"][0]


def test_compares_completions_with_the_baseline_column(service: FakeService) -> None:
    reward = JudgeReward(make_client(service), method="baseline", reward="win_rate", baseline_column="answer")
    reward(["Question?"] * 2, ["a", "b"], answer=["42", [{"role": "assistant", "content": "43"}]])
    assert [row["baseline"] for row in service.seen[0].body["samples"]] == ["42", "43"]
    with pytest.raises(UsageError, match="no column 'answer'; it has 'solution'"):
        reward(["Question?"], ["a"], solution=["42"])
    values = reward(["Question?"] * 2, ["a", "b"], answer=["42", None])
    assert [value is None for value in values] == [False, True]


def count_images_sent(service: FakeService, **call: Any) -> list[int]:
    """Count the images that the judge gets with each completion of a call."""
    assert None not in JudgeReward(make_client(service))(**call)
    rows = [row for request in service.seen for row in request.body["samples"]]
    service.seen.clear()
    return [str(row["prompt"]).count("'digest'") for row in rows]


def rgb(colour: str) -> Any:
    from PIL import Image

    return Image.new("RGB", (64, 64), colour)


QUESTION = [{"role": "system", "content": "Look."}, {"role": "user", "content": "What is it?"}]


def build_grpo_messages(images: list[Any]) -> list[dict[str, Any]]:
    """Build the messages that GRPOTrainer and RLOOTrainer make of QUESTION and a row with these images."""
    texts = [{"type": "text", "text": message["content"]} for message in QUESTION]
    pictures = [{"type": "image", "image": image} for image in images]
    return [{"role": "system", "content": [texts[0]]}, {"role": "user", "content": [*pictures, texts[1]]}]


@pytest.mark.slow  # importing TRL takes half a minute
def test_build_grpo_messages_matches_trl() -> None:
    from trl.data_utils import prepare_multimodal_messages

    for images in ([], [rgb("red")], [rgb("red"), rgb("blue")]):
        assert prepare_multimodal_messages(QUESTION, images) == build_grpo_messages(images)


def test_does_not_repeat_images_of_prompts_from_the_column(service: FakeService) -> None:
    columns: dict[str, Any] = {"images": [[rgb("red"), rgb("blue")], [rgb("red")], []]}
    prompts = [build_grpo_messages(images) for images in columns["images"]]
    completions = [[{"role": "assistant", "content": "A square."}]] * 3
    assert count_images_sent(service, prompts=prompts, completions=completions, **columns) == [2, 1, 0]
    one = {"image": [rgb("red"), None]}
    prompts = [build_grpo_messages([image] if image else []) for image in one["image"]]
    assert count_images_sent(service, prompts=prompts, completions=completions[:2], **one) == [1, 0]


def test_image_placeholders_take_images_from_the_column(service: FakeService) -> None:
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    completions = [[{"role": "assistant", "content": "A square."}]] * 2
    one = [rgb("red")] * 2  # like OnlineDPOTrainer
    assert count_images_sent(service, prompts=[prompt] * 2, completions=completions, image=one) == [1, 1]
    assert count_images_sent(service, prompts=["What is it?"], completions=["A square."], images=[[rgb("red")]]) == [1]
    assert count_images_sent(service, prompts=["What is it?"], completions=["A square."], images=[None]) == [0]
    columns = {"image": [rgb("red"), None]}
    values = JudgeReward(make_client(service))([prompt] * 2, completions, **columns)
    assert [value is None for value in values] == [False, True]


def test_encodes_and_sends_an_image_of_many_completions_once(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_prompt() -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image", "image": rgb("red")}, {"type": "text", "text": "?"}]}]

    encoded, image = [], media.make_image
    monkeypatch.setattr(
        "flex_judge.judges.media.opening.make_image", lambda source: encoded.append(source) or image(source)
    )
    JudgeReward(make_client(service))([make_prompt() for _ in range(8)], ["four"] * 8)
    assert len(service.uploads) == 1
    assert len([source for source in encoded if not isinstance(source, media.Media)]) == 1


def test_logs_judge_metrics_and_columns(service: FakeService) -> None:
    log = Log()
    JudgeReward(make_client(service))(["Question?"] * 2, ["four", "fives!"], **log.offered)
    assert log.columns == {
        "judge_reasoning": ["I counted."] * 2,
        "judge_status": ["ok", "ok"],
        "judge_score": [4, 6],
    }
    assert log.metrics["judge/score_mean"] == 5
    assert log.metrics["judge/status_ok"] == log.metrics["judge/scored"] == log.metrics["judge/whole"] == 1
    assert {f"judge/status_{status}" for status in Status} < set(log.metrics)
    assert {"judge/prompt_tokens", "judge/cached_tokens", "judge/generated_tokens"} < set(log.metrics)
    assert 0 < log.metrics["judge/latency_s"] < 5


def test_logs_finite_metrics_with_constant_names(service: FakeService) -> None:
    well, ill, away = Log(), Log(), Log()
    reward = JudgeReward(make_client(service), name="helpful")
    reward(["Question?"], ["four"], **well.offered)
    service.always = return_unscored(Status.OVERLONG)
    reward(["Question?"], ["four"], **ill.offered)
    service.always = hang
    JudgeReward(impatient_client(service), name="helpful")(["Question?"], ["four"], **away.offered)
    assert set(well.columns) == set(ill.columns) == set(away.columns)
    assert away.columns["helpful_score"] == [None]
    assert set(well.metrics) - {"helpful/score_mean"} == set(ill.metrics) == set(away.metrics)
    assert all(math.isfinite(value) for log in (well, ill, away) for value in log.metrics.values())
    assert ill.metrics["helpful/status_overlong"] == away.metrics["helpful/status_timeout"] == 1
    assert (well.metrics["helpful/whole"], away.metrics["helpful/whole"]) == (1, 0)


def test_an_outage_costs_one_call_and_the_next_ends_the_run(
    service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    patient, reward = JudgeReward(make_client(service)), JudgeReward(impatient_client(service))
    service.always = hang
    assert reward(["Question?"] * 2, ["four", "fives"]) == [None, None]
    assert "the 2 completions of this call get no reward; the run ends if the next call fails too" in caplog.text
    service.always = None  # the service has recovered
    assert patient(["Question?"], ["four"]) == [4]
    service.always = hang
    assert reward(["Question?"], ["four"]) == [None]
    service.well = False
    with pytest.raises(ServiceUnavailableError, match=r"no judgments since .* checkpoint"):
        reward(["Question?"], ["four"])


def test_raises_if_a_completion_is_unscored_and_unscored_is_raise(service: FakeService) -> None:
    reward = JudgeReward(make_client(service), unscored="raise")
    assert reward(["Question?"], ["four"]) == [4]
    service.script.append(return_unscored(Status.TRUNCATED))
    with pytest.raises(
        UnscoredError, match=r"1 of 1 completions have no score \(truncated: 1\); .*: not today; .*Online"
    ):
        reward(["Question?"], ["four"])
    service.always = hang
    with pytest.raises(ServiceTimeoutError):
        JudgeReward(impatient_client(service), unscored="raise")(["Question?"], ["four"])


def test_warns_if_the_trainer_counts_unscored_completions_as_zero(
    service: FakeService, caplog: pytest.LogCaptureFixture
) -> None:
    service.always = return_unscored(Status.TRUNCATED)
    state = Log().offered["trainer_state"]
    reward = JudgeReward(make_client(service))
    reward(["Question?"], ["four"], **Log().offered)  # GRPOTrainer
    reward(["Question?"], ["four"])  # AsyncGRPOTrainer
    assert "as 0" not in caplog.text
    assert reward(["Question?"], ["four"], trainer_state=state) == reward(["Question?"], ["four"]) == [None]
    assert "such as OnlineDPOTrainer, count them as 0" in caplog.text


def test_warns_once_about_incomplete_groups(service: FakeService, caplog: pytest.LogCaptureFixture) -> None:
    async def in_parts(request: Any) -> Any:
        from starlette.responses import JSONResponse

        from flex_judge.reward.types import GroupInfo, Reward

        row = Reward(0.5, Status.OK, group=GroupInfo(2, 4))
        return JSONResponse({"rewards": [row.to_json() for _ in (await request.json())["samples"]]})

    service.always = in_parts
    log = Log()
    reward = JudgeReward(make_client(service), method="round_robin", reward="win_rate", group_size=4, group_timeout_s=1)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert reward(["Question?"] * 2, ["four", "fives"], **log.offered) == [0.5, 0.5]
    assert caplog.text.count("2 of 2 completions were judged in a group with fewer than 4 members") == 1
    assert log.metrics["judge/whole"] == 0


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"reward": "applause"}, "reward must be one of"),
        ({"method": "dice"}, "method must be one of"),
        ({"unscored": "zero"}, "unscored must be one of none, raise"),
        ({"method": "baseline"}, "baseline_column: must name a column"),
        ({"baseline_column": "answer"}, "baseline_column: must name a column"),
        ({"rubrik": "correctness"}, "unknown setting 'rubrik'; did you mean 'rubric'"),
        ({"on_model_change": "ignore"}, "on_model_change must be one of raise, warn, allow"),
        ({"length_penalty": 0.1}, "length_limit must be set if length_penalty is above 0"),
        ({"length_limit": 9}, "length_limit must be set if length_penalty is above 0, else be None"),
        ({"length_penalty": -1.0, "length_limit": 9}, "length_penalty must be 0.* or more"),
        ({"granularity": "step", "method": "listwise"}, "granularity 'step' scores each step"),
        ({"granularity": "turn", "view": "final"}, "view 'final' shows the judge one message"),
        ({"discount": 1.5}, "discount must be above 0 and at most 1"),
        ({"name": ""}, "name must not be empty"),
        ({"judge": 5}, "judge must be a FlexJudge, a JudgeClient, or the URL"),
        ({"judge": "10.0.0.1:8000"}, "url must begin with http"),
        ({"judge": JudgeClient("http://127.0.0.1:9"), "api_key": "k"}, "only used with a URL"),
    ],
)
def test_rejects_invalid_settings(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        JudgeReward(**({"judge": "http://127.0.0.1:9"} | settings))


@pytest.mark.slow
def test_grpo_run_continues_with_unscored_completions(local: JudgeReward, tmp_path: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    from flex_judge.judges.models import resolve_model

    batch = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 12}
    trainer = GRPOTrainer(
        model=str(resolve_model("smollm2-135m")),
        reward_funcs=local,
        args=GRPOConfig(**batch, **two_steps(tmp_path)),
        train_dataset=questions(),
    )
    trainer.train()
    means = logged(trainer, "rewards/flex_judge/mean")
    assert len(means) == 2
    assert all(1 <= mean <= 5 for mean in means)
    assert logged(trainer, "judge/scored") == [1, 1]
