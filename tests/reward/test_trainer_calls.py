"""The reward function, called exactly as each of TRL's trainers calls it, with the judge behind HTTP."""

from __future__ import annotations

import asyncio
import pickle
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scripts import SETTINGS, fair_judge
from served import ServedJudge, served

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.media.opening import make_image
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.reward.trl import AsyncJudgeReward, JudgeReward

TEXTS = ["one", "two", "three", "four"]


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 56, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def user(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


def assistant(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": text}]


class Trainer:
    """Call of GRPOTrainer and RLOOTrainer on one rank, with the logged values."""

    def __init__(self, step: int = 0) -> None:
        self.state = SimpleNamespace(global_step=step, epoch=0.1)
        self.metrics: dict[str, list[float]] = defaultdict(list)
        self.extra: dict[str, list[Any]] = defaultdict(list)

    def call(self, reward: Any, prompts: list[Any], completions: list[Any], **columns: Any) -> Any:
        return reward(
            prompts=prompts,
            completions=completions,
            completion_ids=[[1, 2, 3]] * len(prompts),
            trainer_state=self.state,
            log_extra=lambda column, values: self.extra[column].extend(values),
            log_metric=lambda name, value: self.metrics[name].append(value),
            **columns,
        )


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(fair_judge, profile=PROFILES["flex-vl"])


@pytest.fixture
def judge(engine: ScriptedEngine) -> FlexJudge:
    return FlexJudge(engine, replace(SETTINGS, forced_answer=False))


@pytest.fixture
def service(judge: FlexJudge) -> Iterator[ServedJudge]:
    with served(judge) as service:
        yield service


@pytest.fixture
def score(judge: FlexJudge) -> Callable[[str], float | None]:
    """Return a function that scores a completion of `Question?` alone."""
    alone = JudgeReward(judge)
    return lambda text: alone(prompts=[user("Question?")], completions=[assistant(text)])[0]


def count_images(engine: ScriptedEngine) -> list[int]:
    """Count the images of each request to the engine."""
    return [len(media) for media in engine.media]


def test_ranks_that_share_a_group_get_rewards_of_the_whole_group(service: ServedJudge) -> None:
    options = {"method": "round_robin", "reward": "win_rate", "group_timeout_s": 20.0}
    single_rank = JudgeReward(service.url, **options)
    ranks = [JudgeReward(service.url, group_size=4, **options) for _ in range(2)]
    trainers = [Trainer(), Trainer()]
    prompts, completions = [user("Question?")] * 4, [assistant(text) for text in TEXTS]
    together = Trainer().call(single_rank, prompts, completions)
    with ThreadPoolExecutor() as pool:
        parts = pool.map(
            lambda rank: trainers[rank].call(ranks[rank], prompts[:2], completions[2 * rank : 2 * rank + 2]), range(2)
        )
    apart = [reward for part in parts for reward in part]
    assert apart == together
    assert sum(apart) == pytest.approx(2.0)  # four completions, six pairs
    assert trainers[0].metrics.keys() == trainers[1].metrics.keys()


def test_async_trainer_worker_awaits_async_and_threads_sync_functions(
    service: ServedJudge, score: Callable[[str], float]
) -> None:
    functions = pickle.loads(pickle.dumps([JudgeReward(service.url), AsyncJudgeReward(service.url)]))
    call = {
        "completions": [assistant(text) for text in TEXTS],
        "prompts": [user("Question?")] * 4,
        "completion_ids": [[1]] * 4,
        "answer": ["4"] * 4,
    }

    async def score_group() -> list[list[float | None]]:
        # Like _AsyncRolloutLoop._score_group: no trainer_state and no logging functions.
        return await asyncio.gather(asyncio.to_thread(functions[0], **call), functions[1](**call))

    assert asyncio.run(score_group()) == [[score(text) for text in TEXTS]] * 2


def test_groups_the_doubled_prompt_list_of_online_dpo(service: ServedJudge) -> None:
    reward = JudgeReward(service.url, method="round_robin", reward="win_rate", unscored="raise")
    prompts = [user("First?"), user("Second?")]
    # First answers of all prompts, then second answers of all prompts.
    completions = [assistant(text) for text in ("one", "two", "three", "five")]
    got = reward(
        prompts=2 * prompts,
        completions=completions,
        completion_ids=[[1]] * 4,
        answer=["1", "2"] * 2,
        trainer_state=SimpleNamespace(global_step=0),
    )
    pairs = [reward(prompts=[p] * 2, completions=completions[i::2]) for i, p in enumerate(prompts)]
    assert got == [pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]]
    assert got[0] + got[2] == got[1] + got[3] == 1.0


def test_uses_an_image_in_prompt_and_column_once(service: ServedJudge, engine: ScriptedEngine) -> None:
    # GRPOTrainer decodes the row again for each completion, and also puts the image into the messages.
    pictures = [picture(0), picture(0), picture(1), picture(1)]
    prompts = [user([{"type": "image", "image": pic}, {"type": "text", "text": "What is this?"}]) for pic in pictures]
    rewards = Trainer().call(
        JudgeReward(service.url, method="round_robin", reward="rank"),
        prompts,
        [assistant(text) for text in TEXTS],
        image=pictures,
    )
    assert None not in rewards
    assert set(count_images(engine)) == {1}
    assert len({shown.digest for media in engine.media for shown in media}) == 2


def test_text_rows_among_image_rows_have_no_image(service: ServedJudge, engine: ScriptedEngine) -> None:
    shown = user([{"type": "image", "image": picture(0)}, {"type": "text", "text": "What is this?"}])
    text = user([{"type": "text", "text": "What is 1 + 2?"}])
    rewards = Trainer().call(
        JudgeReward(service.url),
        [shown, text, text],
        [assistant(t) for t in TEXTS[:3]],
        images=[[picture(0)], [], None],
    )
    assert None not in rewards
    assert sorted(set(count_images(engine))) == [0, 1]


def test_takes_images_from_the_column_for_online_dpo(service: ServedJudge, engine: ScriptedEngine) -> None:
    prompts = [user([{"type": "image"}, {"type": "text", "text": "What is this?"}]) for _ in range(2)]
    pictures = [picture(0), picture(1)]
    rewards = JudgeReward(service.url, unscored="raise")(
        prompts=2 * prompts,
        completions=[assistant(text) for text in TEXTS],
        completion_ids=[[1]] * 4,
        image=2 * pictures,
        trainer_state=SimpleNamespace(global_step=0),
    )
    assert None not in rewards
    assert set(count_images(engine)) == {1}


def test_uploads_an_image_of_many_completions_once(service: ServedJudge) -> None:
    reward = JudgeReward(service.url)
    for step in range(2):
        prompts = [
            user([{"type": "image", "image": picture(0)}, {"type": "text", "text": "What is this?"}]) for _ in TEXTS
        ]
        Trainer(step).call(reward, prompts, [assistant(text) for text in TEXTS])
    sent = [path for method, path in service.requests if method == "PUT"]
    assert sent == [f"/v1/media/image/{make_image(picture(0)).digest}"]


def test_no_completion_of_a_policy_ends_the_run(service: ServedJudge) -> None:
    tool_call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    completions = [
        assistant(""),
        assistant("\x00\x07\x0c �<|im_end|></think>"),
        [
            {"role": "assistant", "content": "", "tool_calls": [tool_call]},
            {"role": "tool", "name": "add", "content": "3"},
        ],
        [{"role": "assistant", "tool_calls": [tool_call]}],
        [{"role": "assistant", "content": None, "reasoning_content": "I see"}, *assistant("3")],
        assistant("mumble"),
    ]
    rewards = Trainer().call(JudgeReward(service.url), [user("Question?")] * 6, completions)
    assert rewards[5] is None
    assert None not in rewards[:5]


def test_logs_the_same_keys_in_every_call(service: ServedJudge) -> None:
    reward = JudgeReward(service.url, method="round_robin", reward="rank")
    well, mixed, badly = Trainer(), Trainer(), Trainer()
    well.call(reward, [user("Question?")] * 2, [assistant("one"), assistant("two")])
    mixed.call(reward, [user("Question?")] * 3, [assistant("one"), assistant("two"), assistant("mumble")])
    badly.call(reward, [user("Question?")] * 2, [assistant("mumble"), assistant("mumble ")])
    assert well.metrics.keys() >= mixed.metrics.keys() >= badly.metrics.keys()
    assert well.extra.keys() == mixed.extra.keys() == badly.extra.keys() != set()
    for trainer, size in ((well, 2), (mixed, 3), (badly, 2)):
        assert {len(values) for values in trainer.extra.values()} == {size}
        assert all(np.isfinite(value) for values in trainer.metrics.values() for value in values)
