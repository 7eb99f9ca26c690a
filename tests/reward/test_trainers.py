"""Real TRL trainers on the CPU, with rewards from a judge behind HTTP."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from policy_server import app
from scripts import SETTINGS, fair_judge
from served import Served, ServedJudge, served
from tiny_models import tiny_llama, tiny_qwen_vl
from training import Watched, logged, questions, steps, two_steps

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.reward.trl import AsyncJudgeReward, JudgeReward

pytestmark = pytest.mark.slow
GROUP = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 8}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_llama(tmp_path_factory.mktemp("policy")))


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(fair_judge, profile=PROFILES["flex-vl"])


@pytest.fixture
def service(engine: ScriptedEngine) -> Iterator[ServedJudge]:
    with served(FlexJudge(engine, SETTINGS)) as service:
        yield service


def get_candidate(prompt: str) -> str:
    """Extract the completion from the prompt of a pointwise comparison."""
    return prompt.rpartition("Answer]\n")[2].partition("<|im_end|>")[0]


class UndecidedJudge:
    """Judge like `fair_judge`, but without a verdict for every third completion."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, prompt: str, sampling: Sampling) -> str:
        number = self.numbers.setdefault(get_candidate(prompt), len(self.numbers))
        if sampling.stop == ("</think>",) or number % 3:
            return fair_judge(prompt, sampling)
        return "<answer>perhaps</answer>"


def test_rloo_trains_on_knockout_ranks(policy: str, service: ServedJudge, tmp_path: Path) -> None:
    from trl import RLOOConfig, RLOOTrainer

    reward = JudgeReward(service.url, method="knockout", reward="rank", group_size=4)
    trainer = RLOOTrainer(
        model=policy, reward_funcs=reward, args=RLOOConfig(**GROUP, **two_steps(tmp_path)), train_dataset=questions()
    )
    trainer.train()
    assert logged(trainer, "rewards/flex_judge/mean") == pytest.approx([0.5, 0.5])  # the mean rank is always 0.5
    assert logged(trainer, "judge/whole") == [1.0, 1.0]
    assert all(map(math.isfinite, logged(trainer, "loss")))


def test_online_dpo_compares_the_two_answers_of_a_prompt(
    policy: str, service: ServedJudge, engine: ScriptedEngine, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    watched = Watched(JudgeReward(service.url, method="round_robin", reward="margin", unscored="raise"))
    trainer = OnlineDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(policy),
        processing_class=AutoTokenizer.from_pretrained(policy),
        reward_funcs=watched,
        args=OnlineDPOConfig(**two_steps(tmp_path), per_device_train_batch_size=2, max_new_tokens=8, max_length=256),
        train_dataset=questions(),
    )
    trainer.train()
    assert all(map(math.isfinite, logged(trainer, "loss")))
    judge_prompts = [prompt for prompt, _ in engine.requests]
    for call in watched.calls:
        assert call["prompts"][:2] == call["prompts"][2:]
        texts = [completion[0]["content"] for completion in call["completions"]]
        for i in range(2):
            question = call["prompts"][i][0]["content"]
            assert call["rewards"][i] == -call["rewards"][i + 2]
            assert any(question in prompt and texts[i] in prompt and texts[i + 2] in prompt for prompt in judge_prompts)


def test_judges_a_vision_policy_with_its_images(service: ServedJudge, engine: ScriptedEngine, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    noise = np.random.default_rng(0).integers(0, 256, (4, 56, 84, 3), dtype=np.uint8)
    question = [{"role": "user", "content": "What is this?"}]
    rows = {"prompt": [question] * 4, "image": [Image.fromarray(pixels) for pixels in noise]}
    trainer = GRPOTrainer(
        model=str(tiny_qwen_vl(tmp_path / "policy")),
        reward_funcs=JudgeReward(service.url, method="round_robin", reward="win_rate"),
        args=GRPOConfig(**GROUP | {"num_generations": 2}, **two_steps(tmp_path)),
        train_dataset=Dataset.from_dict(rows),
    )
    trainer.train()
    # The same question with four images: four groups of two, each judged with its own image.
    assert logged(trainer, "rewards/flex_judge/mean") == pytest.approx([0.5, 0.5])
    assert {len(media) for media in engine.media} == {1}
    assert len({media[0].digest for media in engine.media}) == 4
    assert len([path for method, path in service.requests if method == "PUT"]) == 4


def test_grpo_goes_on_after_a_picture_that_the_judge_cannot_take(
    service: ServedJudge, engine: ScriptedEngine, tmp_path: Path
) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    noise = np.random.default_rng(1).integers(0, 256, (3, 28, 56, 3), dtype=np.uint8)
    impossible = Image.new("I", (56, 28))  # 32 bits a pixel: the policy's processor converts it, the judge refuses it
    question = [{"role": "user", "content": "What is this?"}]
    images = [*(Image.fromarray(pixels) for pixels in noise), impossible]
    trainer = GRPOTrainer(
        model=str(tiny_qwen_vl(tmp_path / "policy")),
        reward_funcs=JudgeReward(service.url),
        args=GRPOConfig(**GROUP | {"num_generations": 2}, **two_steps(tmp_path)),
        train_dataset=Dataset.from_dict({"prompt": [question] * 4, "image": images}),
    )
    trainer.train()
    shares = logged(trainer, "judge/status_invalid_input")
    assert sorted(shares) == pytest.approx([0.0, 0.5])  # two of the four completions in one of the two steps
    assert logged(trainer, "judge/scored") == pytest.approx([1 - share for share in shares])
    assert all(map(math.isfinite, logged(trainer, "loss")))
    assert len({media[0].digest for media in engine.media}) == 3


def test_grpo_leaves_out_completions_without_a_verdict(policy: str, tmp_path: Path) -> None:
    import pyarrow.parquet
    from trl import GRPOConfig, GRPOTrainer

    hesitant = FlexJudge(ScriptedEngine(UndecidedJudge()), replace(SETTINGS, forced_answer=False))
    with served(hesitant) as service:
        trainer = GRPOTrainer(
            model=policy,
            reward_funcs=JudgeReward(service.url),
            args=GRPOConfig(**GROUP, **two_steps(tmp_path), log_completions=True),
            train_dataset=questions(),
        )
        trainer.train()
    means = logged(trainer, "rewards/flex_judge/mean")
    for step, mean in enumerate(means, start=1):
        rows = pyarrow.parquet.read_table(tmp_path / "completions" / f"completions_{step:05d}.parquet").to_pylist()
        scored = [row for row in rows if row["judge_status"] == "ok"]
        lost = [row for row in rows if row["judge_status"] == "unparseable"]
        assert 0 < len(lost) < len(rows) == len(scored) + len(lost)
        assert all(row["advantage"] == 0 and row["judge_score"] is None for row in lost)
        assert mean == pytest.approx(sum(row["flex_judge"] for row in scored) / len(scored))
        assert sum(row["advantage"] for row in scored) == pytest.approx(0.0, abs=1e-4)
    assert all(map(math.isfinite, logged(trainer, "loss")))


def test_training_continues_through_judge_outages(policy: str, service: ServedJudge, tmp_path: Path) -> None:
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    class Outages(TrainerCallback):  # type: ignore[misc]
        """A short outage in the second step, and one during the whole third step."""

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step in (1, 2):
                service.stop()
            if state.global_step == 1:
                threading.Timer(1.0, service.start).start()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == 3:
                service.start()

    trainer = GRPOTrainer(
        model=policy,
        reward_funcs=JudgeReward(service.url, deadline_s=4.0),
        args=GRPOConfig(**GROUP, **steps(tmp_path, 4)),
        train_dataset=questions(),
        callbacks=[Outages()],
    )
    trainer.train()
    assert [mean is None for mean in logged(trainer, "reward")] == [False, False, True, False]
    assert logged(trainer, "judge/status_timeout") == [0.0, 0.0, 1.0, 0.0]
    assert all(map(math.isfinite, logged(trainer, "loss")))
    assert [norm > 0 for norm in logged(trainer, "grad_norm")] == [True, True, False, True]


def test_async_grpo_worker_scores_groups_in_its_own_process(
    policy: str, service: ServedJudge, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate import PartialState
    from transformers import AutoTokenizer
    from trl.chat_template_utils import qwen2_5_chat_template
    from trl.experimental.async_grpo.async_rollout_worker import AsyncRolloutWorker

    PartialState(cpu=True)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.chat_template = qwen2_5_chat_template  # the trainer needs a template whose replies it can parse
    functions = [
        JudgeReward(service.url, deadline_s=60.0),
        AsyncJudgeReward(service.url, method="round_robin", reward="win_rate", name="wins"),
    ]
    server = Served(app)
    server.start()
    worker = AsyncRolloutWorker(
        model_name="policy",
        dataset=questions(),
        reward_funcs=functions,
        processing_class=tokenizer,
        eos_token_ids=[tokenizer.eos_token_id],
        num_generations=4,
        max_inflight_tasks=8,
        max_tokens=8,
        vllm_server_url=server.url,
        queue_maxsize=8,
    )
    try:
        worker.start()
        samples = [worker.rollout_buffer.get(timeout=60) for _ in range(8)]
    finally:
        worker.stop()
        server.stop()
    for group in (samples[:4], samples[4:]):
        assert len({sample.group_id for sample in group}) == 1
        assert all(1 <= sample.metrics["rewards/flex_judge"] <= 10 for sample in group)
        assert sum(sample.metrics["rewards/wins"] for sample in group) == pytest.approx(2.0)
        assert sum(sample.advantage for sample in group) == pytest.approx(0.0, abs=1e-6)
