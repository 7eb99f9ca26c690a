"""Drive verl's reward loop: its reward workers on Ray, its reward managers, and its advantages."""

from __future__ import annotations

import asyncio
import io
import math
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import ray
import torch
from doc_page import read_settings
from driver_checks import Checks
from hydra import compose, initialize_config_dir
from local_ray import start_ray
from PIL import Image
from tiny_policy import save_policy
from transformers import AutoTokenizer
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, AgentLoopWorker
from verl.experimental.reward_loop import RewardLoopManager, migrate_legacy_reward_impl
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
from verl.protocol import DataProto
from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
from verl.trainer.ppo.reward import extract_reward, load_reward_manager

PROMPTS = ["What is 2 + 3?", "What is 7 + 8?"]
GENERATIONS = 4


def build_config(folder: str, *settings: str) -> Any:
    """Build the configuration as verl's main program does, with its defaults."""
    spec = find_spec("verl")
    assert spec is not None
    assert spec.origin is not None
    with initialize_config_dir(str(Path(spec.origin).parent / "trainer" / "config"), version_base=None):
        config = compose(
            "ppo_trainer",
            overrides=[
                f"actor_rollout_ref.model.path={folder}",
                f"actor_rollout_ref.rollout.n={GENERATIONS}",
                "reward.num_workers=2",
                *settings,
            ],
        )
    return migrate_legacy_reward_impl(config)


def build_columns(prompt: Any, uid: str, extra_info: dict[str, Any] | None = None) -> dict[str, Any]:
    """Build the columns of a rollout, as the trainer passes them to the agent loop."""
    messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
    return {
        "data_source": "sums",
        "reward_model": {"style": "rule", "ground_truth": "5"},
        "extra_info": {} if extra_info is None else extra_info,
        "uid": uid,
        "raw_prompt": messages,
    }


async def score_rollouts(manager: RewardLoopManager, folder: str, rollouts: list[tuple[str, dict[str, Any]]]) -> Any:
    """Score rollouts as the agent loop does: each by a reward worker chosen at random.

    Args:
        manager: the manager of the reward workers.
        folder: folder of the tokenizer.
        rollouts: completions and their columns.

    Returns:
        Rewards, and the extra values of each.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder)
    worker = AgentLoopWorker.__new__(AgentLoopWorker)  # without its inference engine
    worker.processor, worker.tokenizer, worker.hf_model_type, worker.mm_processor_kwargs = None, tokenizer, None, {}
    worker.reward_loop_worker_handles = manager.reward_loop_worker_handles
    outputs = []
    for text, columns in rollouts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        prompt_ids = tokenizer("a prompt", add_special_tokens=False)["input_ids"]
        output = AgentLoopOutput(
            prompt_ids=prompt_ids, response_ids=ids, response_mask=[1] * len(ids), num_turns=2, metrics={}
        )
        output.extra_fields["raw_prompt"] = columns["raw_prompt"]
        outputs.append(output)
    await asyncio.gather(
        *(worker._compute_score([o], kwargs=columns) for o, (_, columns) in zip(outputs, rollouts, strict=True))
    )
    return [o.reward_score for o in outputs], [o.extra_fields["reward_extra_info"] for o in outputs]


def list_rollouts(texts: list[str], uid: str = "step 1") -> list[tuple[str, dict[str, Any]]]:
    """List the rollouts of both prompts, with the members of their groups interleaved."""
    return [(text, build_columns(prompt, f"{uid} {prompt}")) for text in texts for prompt in PROMPTS]


def run_workers(config: Any, folder: str, rollouts: list[tuple[str, dict[str, Any]]]) -> Any:
    """Start reward workers for a configuration, score rollouts, and end the workers."""
    manager = RewardLoopManager(config)
    try:
        return asyncio.run(score_rollouts(manager, folder, rollouts))
    finally:
        for worker in manager.reward_loop_workers:
            ray.kill(worker)


def check_managers(checks: Checks, folder: str, url: str) -> None:
    """Run the configuration of the page with each of verl's reward managers, in this process."""
    texts = ["says=2", "says=9", "mumble"]
    for name in ("naive", "dapo", "gdpo", "remote", "rate_limited"):
        with checks.check(f"the reward manager {name} passes scores and NaN on"):
            function = "compute_score_sync" if name == "remote" else "compute_score"
            settings = read_settings("verl.md", "one completion at a time", url)
            config = build_config(
                folder,
                *settings,
                f"reward.reward_manager.name={name}",
                f"reward.custom_reward_function.name={function}",
            )

            async def score(config: Any) -> list[Any]:
                tokenizer = AutoTokenizer.from_pretrained(folder)
                manager = load_reward_manager(config, tokenizer)
                batches = [build_batch(tokenizer, text) for text in texts]
                return list(await asyncio.gather(*(manager.run_single(batch) for batch in batches)))

            results = asyncio.run(score(config))
            values = [result["reward_score"] for result in results]
            assert values[:2] == [2, 9], results
            assert math.isnan(values[2]), results
            oks = [result["reward_extra_info"]["judge_ok"] for result in results]
            assert oks == [1, 1, 0], results
            assert len({tuple(result["reward_extra_info"]) for result in results}) == 1, results
    with checks.check("the manager batch of older versions is not there"):
        try:
            get_reward_manager_cls("batch")
        except ValueError:
            pass
        else:
            raise AssertionError("a manager named batch exists: it may pass whole groups")


def build_batch(tokenizer: Any, text: str) -> DataProto:
    """Build the batch of one completion; the data set has the prompt in `extra_info`."""
    ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
    columns = build_columns(PROMPTS[0], "a", {"question": PROMPTS[0]})
    cells = {name: np.empty(1, dtype=object) for name in columns}
    for name, value in columns.items():
        cells[name][0] = value
    tensors = {"prompts": torch.zeros(1, 1, dtype=torch.long), "responses": ids, "attention_mask": torch.ones_like(ids)}
    tensors["attention_mask"] = torch.cat([torch.ones(1, 1, dtype=torch.long), tensors["attention_mask"]], dim=1)
    return DataProto.from_dict(tensors=tensors, non_tensors=cells)


def check_groups(checks: Checks, folder: str, url: str) -> None:
    """Score whole groups that are spread over two reward workers."""
    config = build_config(folder, *read_settings("verl.md", "whole groups", url))
    manager = RewardLoopManager(config)
    with checks.check("groups over two reward workers are complete") as detail:
        texts = [f"says={score}" for score in (2, 4, 6, 8)]
        rewards, infos = asyncio.run(score_rollouts(manager, folder, list_rollouts(texts)))
        assert all(info["judge_whole"] == 1 for info in infos), infos
        assert rewards == [win_rate for win_rate in (0, 1 / 3, 2 / 3, 1) for _ in PROMPTS] or all(
            abs(a - b) < 1e-6
            for a, b in zip(rewards, [w for w in (-0.5, -1 / 6, 1 / 6, 0.5) for _ in PROMPTS], strict=True)
        ), rewards
        detail.append(f"rewards {[round(reward, 2) for reward in rewards[::2]]}")
    with checks.check("the same prompt in the next step is another group"):
        rollouts = list_rollouts(["says=1", "says=1", "says=1", "says=9"], "step 2")
        _, infos = asyncio.run(score_rollouts(manager, folder, rollouts))
        assert all(info["judge_whole"] == 1 for info in infos), infos
    with checks.check("an unscored completion has the advantage 0 in its group"):
        texts = ["says=2", "mumble", "says=6", "says=8"]
        rewards, infos = asyncio.run(score_rollouts(manager, folder, list_rollouts(texts, "step 3")))
        assert [info["judge_ok"] for info in infos[::2]] == [1, 0, 1, 1], infos
        advantages = compute_advantages(rewards)
        assert abs(advantages[2]) < 1e-6, (rewards, advantages)  # the second completion of the first prompt
        assert advantages[0] < 0 < advantages[6], (rewards, advantages)
    with checks.check("a whole batch is scored by compute_rm_score"):
        rewards = score_batch(manager, folder)
        assert rewards == sorted(rewards), rewards
        assert rewards[0] < 0 < rewards[3], rewards
    with checks.check("images of the data set reach the judge"):
        rollouts = [(text, read_image_row(folder, config)) for text in ("says=media", "says=2", "says=2", "says=2")]
        _, infos = asyncio.run(score_rollouts(manager, folder, rollouts))
        assert [info["judge_score"] for info in infos] == [1, 2, 2, 2], infos
    for worker in manager.reward_loop_workers:
        ray.kill(worker)


def read_image_row(folder: str, config: Any) -> dict[str, Any]:
    """Read a row with an image through verl's data set, from a Parquet file."""
    from verl.utils.dataset.rl_dataset import RLHFDataset

    image = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(image, "PNG")
    row = {
        "data_source": "pictures",
        "prompt": [{"role": "user", "content": "<image>What colour is it?"}],
        "images": [{"bytes": image.getvalue(), "path": None}],
        "reward_model": {"style": "rule", "ground_truth": "red"},
        "extra_info": {"index": 0},
    }
    file = str(Path(folder) / "rows.parquet")
    datasets.Dataset.from_list([row]).to_parquet(file)
    dataset = RLHFDataset(file, AutoTokenizer.from_pretrained(folder), config.data)
    dataset.processor = object()  # one is required with images, but not used to read a row
    columns = dict(dataset[0])
    columns.pop("dummy_tensor")
    parts = columns["raw_prompt"][0]["content"]
    assert [part["type"] for part in parts] == ["image", "text"], parts
    return {**columns, "uid": "picture"}


def compute_advantages(rewards: list[float]) -> list[float]:
    """Compute GRPO's advantages of interleaved groups with verl's function."""
    index = np.array([i % len(PROMPTS) for i in range(len(rewards))])
    tokens = torch.tensor(rewards)[:, None]
    advantages, _ = compute_grpo_outcome_advantage(tokens, torch.ones_like(tokens), index)
    return [float(value) for value in advantages.flatten()]


def score_batch(manager: RewardLoopManager, folder: str) -> list[float]:
    """Score a batch at once, as the trainer does with a colocated reward model, and read the rewards as it does."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = DataProto.concat([build_batch(tokenizer, f"says={score}") for score in (1, 3, 5, 7)])
    scored = manager.compute_rm_score(batch)
    rewards, extra = extract_reward(scored)
    assert len(extra["judge_ok"]) == 4, extra
    return [float(value) for value in rewards.sum(-1)]


def check_update(checks: Checks) -> None:
    """Apply a gradient that is not finite with the optimizer step of verl's FSDP engine."""
    with checks.check("the FSDP engine skips an update with NaN"):
        from verl.workers.engine.fsdp.transformer_impl import FSDPEngine

        layer = torch.nn.Linear(2, 1)
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.full_like(layer.weight, math.nan)
        engine = SimpleNamespace(
            module=layer,
            optimizer=torch.optim.SGD(layer.parameters(), lr=1.0),
            optimizer_config=SimpleNamespace(clip_grad=1.0),
            scaler=None,
            _qat_enabled=False,
        )
        FSDPEngine.optimizer_step(engine)
        assert torch.equal(layer.weight, before), layer.weight


def main(url: str) -> None:
    checks = Checks()
    start_ray(num_cpus=4)
    with tempfile.TemporaryDirectory() as folder:
        save_policy(folder)
        check_managers(checks, folder, url)
        check_groups(checks, folder, url)
        with checks.check("without JudgeRewardManager, the prompt of the rollout is used"):
            settings = read_settings("verl.md", "one completion at a time", url)
            rewards, infos = run_workers(build_config(folder, *settings), folder, list_rollouts(["says=3", "mumble"]))
            assert rewards[:2] == [3, 3], infos
            assert all(math.isnan(reward) for reward in rewards[2:]), infos
        check_update(checks)
    ray.shutdown()
    checks.finish()


if __name__ == "__main__":
    main(sys.argv[1])
