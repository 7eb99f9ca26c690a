"""Drive SkyRL: its generator with real environments of skyrl_gym, its trainer's rewards, advantages and evaluation."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import skyrl_gym
import torch
from doc_page import read_block
from driver_checks import Checks
from recording_judge import RecordingJudge
from skyrl.backends.skyrl_train.utils.ppo_utils import compute_grpo_outcome_advantage
from skyrl.train.config import SkyRLTrainConfig
from skyrl.train.evaluate import evaluate
from skyrl.train.generators.skyrl_gym_generator import SkyRLGymGenerator
from skyrl.train.generators.utils import prepare_generator_input
from skyrl.train.trainer import RayPPOTrainer
from skyrl.train.utils.trainer_utils import validate_generator_output
from skyrl_gym.envs.base_text_env import BaseTextEnv
from tiny_policy import save_tokenizer

from flex_judge.judges.errors import ServiceUnavailableError, UnscoredError, UsageError
from flex_judge.reward import JudgeClient
from flex_judge.reward.skyrl import JudgeGenerator, register_judge_env

QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]
RED = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)


class CalculatorEnv(BaseTextEnv):
    """An environment of a user: it answers the first message with a tool result, and is done after the second."""

    def __init__(self, env_config: Any = None, extras: Any = None) -> None:
        super().__init__()

    def step(self, action: str) -> dict[str, Any]:
        """Run one step."""
        self.turns += 1
        observations = [{"role": "tool", "content": "5"}] if self.turns == 1 else []
        return {"observations": observations, "reward": 0.0, "done": self.turns == 2, "metadata": {}}


class ScriptedEngine:
    """The inference engine, the only part that needs a GPU: each rollout says its texts, one a turn."""

    def __init__(self, tokenizer: Any, rollouts: list[list[str]], samples: int) -> None:
        self._tokenizer = tokenizer
        self._rollouts = rollouts
        self._samples = samples
        self._turns: Counter[str] = Counter()

    async def generate(self, batch: Any, model: Any = None) -> dict[str, Any]:
        """Say the next text of each session, whose id is `p<prompt>_<sample>`; a batch has none, and one turn."""
        sessions = batch.get("session_ids") or [f"p0_{i}" for i in range(len(batch["prompt_token_ids"]))]
        texts = []
        for session in sessions:
            prompt, _, sample = session[1:].partition("_")
            texts.append(self._rollouts[int(prompt) * self._samples + int(sample)][self._turns[session]])
            self._turns[session] += 1
        ids = [[*self._tokenizer.encode(text), self._tokenizer.eos_token_id] for text in texts]
        logprobs = [[-1.0] * len(row) for row in ids]
        return {
            "responses": texts,
            "response_ids": ids,
            "stop_reasons": ["stop"] * len(ids),
            "response_logprobs": logprobs,
        }

    async def finish_session(self, session: str) -> None:
        """Forget the session."""
        del self._turns[session]


class Setup:
    """Configuration, tokenizer and generators of the checks."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = save_tokenizer(folder)

    def build_config(self, **generator: Any) -> SkyRLTrainConfig:
        """Build the trainer's configuration with other settings of the generator."""
        config = SkyRLTrainConfig()
        for name, value in {"max_turns": 3, "batched": False, **generator}.items():
            assert hasattr(config.generator, name), name
            setattr(config.generator, name, value)
        return config

    def build_generator(self, rollouts: list[list[str]], samples: int = 0, **settings: Any) -> SkyRLGymGenerator:
        """Build SkyRL's generator with rollouts that say the given texts, `samples` of them for each prompt."""
        config = self.build_config(**settings)
        engine = ScriptedEngine(self.tokenizer, rollouts, samples or len(rollouts))
        return SkyRLGymGenerator(config.generator, config.environment.skyrl_gym, engine, self.tokenizer)


def build_batch(env_class: str, samples: int, prompts: int = 1, phase: str = "train") -> tuple[Any, list[str]]:
    """Build a batch as the trainer does, with `samples` rollouts for each prompt."""
    extras = {"reward_spec": {"ground_truth": "5"}, "extra_info": {}, "data_source": "sums"}
    rows = [{"prompt": QUESTION, "env_class": env_class, "env_extras": extras, "uid": f"p{i}"} for i in range(prompts)]
    return prepare_generator_input(rows, samples, {"max_tokens": 8}, env_class, phase, 1)


def compute_advantages(output: Any, uids: list[str]) -> list[float]:
    """Compute the advantage of each rollout with the trainer's own code."""
    config = SkyRLTrainConfig()
    config.generator.n_samples_per_prompt = len(uids)
    trainer = SimpleNamespace(cfg=config, all_metrics={})
    output, uids = RayPPOTrainer.postprocess_generator_output(trainer, output, uids)
    width = max(map(len, output["rewards"]))
    rewards = torch.tensor([row + [0.0] * (width - len(row)) for row in output["rewards"]])
    advantages, _ = compute_grpo_outcome_advantage(rewards, torch.ones_like(rewards), np.array(uids))
    return [round(float(row[0]), 3) for row in advantages]


async def expect_error(kind: type[Exception], text: str, coroutine: Any) -> None:
    """Await a coroutine that must raise an error with a text in its message."""
    try:
        await coroutine
    except kind as e:
        message = str(e)
    else:
        raise AssertionError(f"expected {kind.__name__}")
    assert text in message, message


async def run_checks(url: str, checks: Checks, setup: Setup) -> None:
    register_judge_env("single")
    register_judge_env("recorded_gsm8k", env="gsm8k_multi_turn")
    with checks.check("the code of docs/trainers/skyrl.md builds a generator of the trainer's experiment"):
        page: dict[str, Any] = {}
        exec(read_block("skyrl.md", "judged_experiment.py").replace("http://HOST:8000", url), page)
        experiment = object.__new__(page["JudgedExp"])
        engine = ScriptedEngine(setup.tokenizer, [["says=2 #### 5"], ["says=9 #### 5"]], 2)
        generator = experiment.get_generator(setup.build_config(), setup.tokenizer, engine)
        output = await generator.generate(build_batch("judged_gsm8k", 2)[0])
        assert [row[-1] for row in output["rewards"]] == [0, 1], output["rewards"]
    with checks.check("JudgeGenerator compares the rollouts of each prompt") as detail:
        rollouts = [["says=2"], ["says=9"], ["says=5"], ["says=7"]]
        inner = setup.build_generator(rollouts, samples=2)
        generator = JudgeGenerator(inner, url, method="round_robin", reward="win_rate")
        batch, uids = build_batch("single", 2, prompts=2)
        output = await generator.generate(batch)
        validate_generator_output(4, output)
        assert [row[-1] for row in output["rewards"]] == [0, 1, 0, 1], output["rewards"]
        assert all(not any(row[:-1]) for row in output["rewards"]), output["rewards"]
        assert output["rollout_metrics"]["judge/scored_mean"] == 1, output["rollout_metrics"]
        assert "flex_judge_record" not in batch["env_extras"][0], batch["env_extras"]
        detail.append(f"advantages {compute_advantages(output, uids)}")
    with checks.check("an unscored rollout is not in the loss, and leaves the mean of its group"):
        generator = JudgeGenerator(setup.build_generator([["says=2"], ["mumble"], ["says=6"]]), url)
        batch, uids = build_batch("single", 3)
        output = await generator.generate(batch)
        assert [row[-1] for row in output["rewards"]] == [2, 4, 6], output["rewards"]
        assert [any(mask) for mask in output["loss_masks"]] == [True, False, True], output["loss_masks"]
        assert output["rollout_metrics"]["judge/status_unparseable_mean"] == 1 / 3, output["rollout_metrics"]
        advantages = compute_advantages(output, uids)
        assert advantages[1] == 0, advantages
        assert advantages[0] == -advantages[2], advantages
    with checks.check("the judge sees the whole rollout of a wrapped environment, whose reward can be added") as detail:
        rollouts = [["It is 4. #### 4", "It is 5. #### 5"]]
        with RecordingJudge() as recorder:
            generator = JudgeGenerator(setup.build_generator(rollouts), recorder.url, env_weight=10.0)
            output = await generator.generate(build_batch("recorded_gsm8k", 1)[0])
        (sample,) = recorder.samples
        assert sample["prompt"] == QUESTION, sample
        assert [message["role"] for message in sample["response"]] == ["assistant", "user", "assistant"], sample
        rewards = [reward for reward in output["rewards"][0] if reward]
        assert abs(sum(rewards) - (10 * (1 + 0.2 / 3) + 1)) < 1e-6, rewards
        assert output["rollout_metrics"]["environment/avg_steps"] == 2, output["rollout_metrics"]
        detail.append(f"rewards in the tokens: {rewards}")
    with checks.check("a rollout cut at the length limit is judged by JudgeGenerator"):
        generator = JudgeGenerator(setup.build_generator([["says=3", "says=4"]], max_input_length=60), url)
        output = await generator.generate(build_batch("recorded_gsm8k", 1)[0])
        assert sum(output["rewards"][0]) == 3, output["rewards"]
        assert output["stop_reasons"] == ["length"], output["stop_reasons"]
    with checks.check("rows of step-wise training: the last step has the reward, all steps leave the loss together"):
        rollouts = [["says=3 #### 4", "says=8 #### 5"], ["mumble #### 4", "#### 5"]]
        inner = setup.build_generator(rollouts, step_wise_trajectories=True)
        output = await JudgeGenerator(inner, url).generate(build_batch("recorded_gsm8k", 2)[0])
        validate_generator_output(2, output, step_wise=True)
        assert output["is_last_step"] == [False, True, False, True], output["is_last_step"]
        assert [sum(row) for row in output["rewards"]] == [0, 8, 0, 8], output["rewards"]
        assert [any(mask) for mask in output["loss_masks"]] == [True, True, False, False], output["loss_masks"]
    with checks.check("batched generation, with one reward per rollout"):
        inner = setup.build_generator([["says=2"], ["mumble"], ["says=6"]], batched=True)
        output = await JudgeGenerator(inner, url).generate(build_batch("single", 3)[0])
        assert output["rewards"] == [2, 4, 6], output["rewards"]
    with checks.check("an environment gives each turn its own reward"):
        register_judge_env("turns", url, env="gsm8k_multi_turn", granularity="turn")
        inner = setup.build_generator([["says=3 #### 4", "says=8 #### 5"]])
        output = await inner.generate(build_batch("turns", 1)[0])
        assert [reward for reward in output["rewards"][0] if reward] == [3, 8], output["rewards"]
        assert output["rollout_metrics"]["environment/judge_reward"] == 5.5, output["rollout_metrics"]
        with RecordingJudge() as recorder:
            register_judge_env("recorded_turns", recorder.url, env="gsm8k_multi_turn", granularity="turn")
            await setup.build_generator([["#### 4", "#### 5"]]).generate(build_batch("recorded_turns", 1)[0])
        roles = [message["role"] for message in recorder.samples[1]["prompt"]]
        assert roles == ["user", "assistant", "user"], recorder.samples[1]
        assert recorder.samples[1]["response"] == "#### 5", recorder.samples[1]
    with checks.check("a step is judged with its tool results, and images of the row belong to the prompt"):
        skyrl_gym.register(id="calculator", entry_point=CalculatorEnv)
        with RecordingJudge() as recorder:
            register_judge_env("steps", recorder.url, env="calculator", granularity="step")
            batch, _ = build_batch("steps", 1)
            batch["env_extras"][0]["images"] = [RED]
            output = await setup.build_generator([["2 + 3", "It is 5."]]).generate(batch)
        assert [reward for reward in output["rewards"][0] if reward] == [1, 2], output["rewards"]
        step = recorder.samples[0]["response"]
        assert [message["role"] for message in step] == ["assistant", "tool"], step
        (question,) = recorder.samples[0]["prompt"]
        assert [part["type"] for part in question["content"]] == ["image", "text"], question
    with checks.check("an unscored rollout of a judging environment ends the run without JudgeGenerator"):
        register_judge_env("judged", url)
        rollouts = [["says=2"], ["mumble"], ["says=6"]]
        unprotected = setup.build_generator(rollouts).generate(build_batch("judged", 3)[0])
        await expect_error(UnscoredError, "JudgeGenerator", unprotected)
        output = await JudgeGenerator(setup.build_generator(rollouts)).generate(build_batch("judged", 3)[0])
        assert [row[-1] for row in output["rewards"]] == [2, 4, 6], output["rewards"]
        assert [any(mask) for mask in output["loss_masks"]] == [True, False, True], output["loss_masks"]
    with checks.check("a judging environment leaves out a rollout that is cut at the length limit"):
        register_judge_env("cut_gsm8k", url, env="gsm8k_multi_turn")
        inner = setup.build_generator([["says=3", "says=4"]], max_input_length=60)
        output = await JudgeGenerator(inner).generate(build_batch("cut_gsm8k", 1)[0])
        assert not any(output["loss_masks"][0]), output["loss_masks"]
    with checks.check("evaluation has the mean of the scored rollouts"):
        generator = JudgeGenerator(setup.build_generator([["says=2"], ["mumble"], ["says=6"]], samples=1), url)
        config = setup.build_config()
        config.trainer.dump_eval_results = False
        extras = {"data_source": "sums"}
        rows = [{"prompt": QUESTION, "env_class": "single", "env_extras": extras, "uid": f"p{i}"} for i in range(3)]
        metrics = await evaluate([rows], generator, config, 1, setup.tokenizer)
        assert metrics["eval/all/avg_score"] == 4, metrics
        assert abs(metrics["eval/all/judge/scored_mean"] - 2 / 3) < 1e-9, metrics
    with checks.check("an environment that does not record is a setting error"):
        unrecorded = JudgeGenerator(setup.build_generator([["#### 5"]]), url).generate(build_batch("gsm8k", 1)[0])
        await expect_error(UsageError, "register_judge_env", unrecorded)
    with checks.check("a dead judge costs a batch, and then ends the run"):
        client = JudgeClient("http://127.0.0.1:9", deadline_s=0.5, probe_s=0.5)
        dead = JudgeGenerator(setup.build_generator([["says=2"], ["says=3"]]), client)
        output = await dead.generate(build_batch("single", 2)[0])
        assert not any(map(any, output["loss_masks"])), output["loss_masks"]
        await expect_error(ServiceUnavailableError, "127.0.0.1:9", dead.generate(build_batch("single", 2)[0]))


def main(url: str) -> None:
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run_checks(url, checks, Setup(folder)))
    checks.finish()


if __name__ == "__main__":
    main(sys.argv[1])
