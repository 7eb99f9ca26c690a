"""The reward function as TRL's trainers call it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scripts import SETTINGS, judge
from training import two_steps

from judges import FlexJudge
from judges.engines import Sampling
from judges.engines.scripted import ScriptedEngine
from judges.errors import UsageError
from reward.trl import JudgeReward


def unreadable_if_told(prompt: str, sampling: Sampling) -> str:
    return judge(prompt, sampling) if sampling.stop or "mumble" not in prompt else "<answer>mumble</answer>"


@pytest.fixture
def reward() -> JudgeReward:
    return JudgeReward(
        FlexJudge(ScriptedEngine(unreadable_if_told), replace(SETTINGS, force=False)), rubric="correctness"
    )


def test_every_completion_gets_its_score_in_order(reward: JudgeReward) -> None:
    texts = [f"answer {i}" for i in range(6)]
    one_by_one = [reward(["Question?"], [text])[0] for text in texts]
    assert reward(["Question?"] * 6, texts) == one_by_one
    assert len(set(one_by_one)) > 1


def test_messages_score_as_their_text_does(reward: JudgeReward) -> None:
    prompt = [{"role": "user", "content": "Question?"}]
    assert reward([prompt], [[{"role": "assistant", "content": "answer"}]]) == reward(["Question?"], ["answer"])


def test_an_unreadable_verdict_is_none_and_not_a_number(reward: JudgeReward) -> None:
    scores = reward(["Question?"] * 2, ["mumble", "answer"], trainer_state=None, answer=["1", "2"])
    assert scores[0] is None
    assert scores[1] is not None


def test_an_unknown_reward_is_refused() -> None:
    with pytest.raises(UsageError, match="choose one of score, expected"):
        JudgeReward(FlexJudge(ScriptedEngine(judge)), reward="applause")


@pytest.mark.slow
def test_a_grpo_run_is_rewarded_and_none_does_not_stop_it(reward: JudgeReward, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from judges.models import resolve_model

    prompts = [[{"role": "user", "content": f"What is {n} + 2?"}] for n in range(8)]
    batch = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 12}
    options = GRPOConfig(**batch, **two_steps(tmp_path))
    trainer = GRPOTrainer(
        model=str(resolve_model("smollm2-135m")),
        reward_funcs=reward,
        args=options,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
    )
    trainer.train()
    name = "rewards/flex_judge/mean"
    means = [entry[name] for entry in trainer.state.log_history if name in entry]
    assert len(means) == 2
    assert all(1 <= mean <= 5 for mean in means)
