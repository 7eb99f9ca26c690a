"""Drive slime: its reward model hub over HTTP and by custom function, its rollout of groups, and its training data."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from driver_checks import Checks
from http_servers import record_requests
from tiny_policy import save_tokenizer

PROMPT = "<|im_start|>user\nWhat is 2 + 3?<|im_end|>\n<|im_start|>assistant\n"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
FUNCTION = "flex_judge.reward.slime.judge_reward"
NORMALIZE = "flex_judge.reward.slime.normalize_rewards"


class EngineStub(MetaPathFinder, Loader):
    """Importer of empty modules for SGLang, slime's engine, which needs a GPU and takes no part in rewards."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "sglang" else None

    def exec_module(self, module: ModuleType) -> None:
        def get_name(name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

        module.__getattr__ = get_name  # type: ignore[method-assign]


sys.meta_path.insert(0, EngineStub())

from slime.ray.rollout import RolloutManager  # noqa: E402
from slime.rollout.filter_hub.dynamic_sampling_filters import check_reward_nonzero_std  # noqa: E402
from slime.rollout.rm_hub import async_rm  # noqa: E402
from slime.rollout.sglang_rollout import generate_and_rm_group  # noqa: E402
from slime.utils.types import Sample  # noqa: E402

from flex_judge.judges.errors import UnscoredError  # noqa: E402


async def generate_answer(args: Namespace, sample: Any, sampling_params: dict[str, Any]) -> Any:
    """Write the text in the metadata of a sample as its response: slime's --custom-generate-function-path."""
    sample.response = sample.metadata["answer"]
    sample.tokens, sample.response_length = [1, 2, 3], 2
    sample.status = Sample.Status.COMPLETED
    return sample


def make_args(folder: str, **options: Any) -> Namespace:
    """Make slime's arguments, as far as rewards depend on them."""
    defaults: dict[str, Any] = {
        "hf_checkpoint": folder,
        "sglang_server_concurrency": 8,
        "rollout_num_gpus": 1,
        "rollout_num_gpus_per_engine": 1,
        "sglang_dp_size": 1,
        "rollout_temperature": 1.0,
        "rollout_top_p": 1.0,
        "rollout_top_k": -1,
        "rollout_max_response_len": 8,
        "rollout_stop": None,
        "rollout_stop_token_ids": None,
        "rollout_skip_special_tokens": False,
        "partial_rollout": False,
        "custom_generate_function_path": f"{__name__}.generate_answer",
        "custom_rm_path": None,
        "rm_type": None,
        "rm_url": None,
        "group_rm": False,
        "reward_key": None,
        "eval_reward_key": None,
        "custom_reward_post_process_path": None,
        "advantage_estimator": "grpo",
        "rewards_normalization": True,
        "grpo_std_normalization": True,
        "n_samples_per_prompt": 4,
        "rollout_batch_size": 1,
        "rollout_sample_hook_path": None,
        "rollout_sample_hooks": None,
    }
    return Namespace(**{**defaults, **options})


def make_group(answers: Sequence[str], **metadata: Any) -> list[Any]:
    return [
        Sample(group_index=3, index=i, prompt=PROMPT, label="5", metadata={"answer": answer, **metadata})
        for i, answer in enumerate(answers)
    ]


def make_train_data(args: Namespace, samples: list[Any]) -> dict[str, Any]:
    """Have slime's rollout manager convert samples, with its normalization of rewards or the configured one."""
    manager = RolloutManager.__ray_metadata__.modified_class
    path = args.custom_reward_post_process_path
    module, _, name = (path or "").rpartition(".")
    function = getattr(__import__(module, fromlist=[name]), name) if path else None
    state = Namespace(
        args=args, custom_reward_post_process_func=function, custom_convert_samples_to_train_data_func=None
    )
    state._post_process_rewards = lambda samples: manager._post_process_rewards(state, samples)
    return manager._convert_samples_to_train_data(state, samples)


async def check_route(checks: Checks, url: str, folder: str) -> None:
    """Check `--rm-type remote_rm --rm-url URL/rm`."""
    args = make_args(folder, rm_type="remote_rm", rm_url=f"{url}/rm")
    with checks.check("remote_rm gets a number from /rm"):
        reward = await async_rm(args, Sample(prompt=PROMPT, response="says=7<|im_end|>\n", label="5"))
        assert reward == 7, reward
    with checks.check("remote_rm: a label with the prompt, an image, tools and a rubric"):
        label = {
            "prompt": [{"role": "user", "content": "What is it?"}],
            "images": [PIXEL],
            "tools": [{"name": "zoom"}],
            "rubric": "correctness",
        }
        for value in (label, json.dumps(label)):
            reward = await async_rm(args, Sample(prompt=PROMPT, response="says=4<|im_end|>", label=value))
            assert reward == 4, reward
    with checks.check("remote_rm gets null for an unscored completion, and slime refuses to train on it") as detail:
        group = make_group(["says=2", "mumble", "says=6", "says=8"])
        group = await generate_and_rm_group(args, group, {})
        assert [sample.reward for sample in group] == [2, None, 6, 8], [sample.reward for sample in group]
        try:
            make_train_data(args, group)
        except TypeError as e:
            detail.append(str(e))
        else:
            raise AssertionError("slime has made training data of a null reward")


async def check_function(checks: Checks, url: str, folder: str) -> None:
    """Check `--custom-rm-path`, alone and with whole groups."""
    with checks.check("--custom-rm-path with --group-rm compares whole groups"), record_requests(url) as proxy:
        os.environ.update(FLEX_JUDGE_URL=proxy.url, FLEX_JUDGE_METHOD="round_robin", FLEX_JUDGE_REWARD="win_rate")
        args = make_args(folder, custom_rm_path=FUNCTION, group_rm=True)
        group = await generate_and_rm_group(args, make_group([f"says={i}<|im_end|>" for i in (2, 4, 6, 8)]), {})
        assert [sample.reward for sample in group] == [0, 1 / 3, 2 / 3, 1], [sample.reward for sample in group]
        assert [sample["response"] for sample in proxy.samples] == ["says=2", "says=4", "says=6", "says=8"]
        assert check_reward_nonzero_std(args, group).keep
    for name in ("METHOD", "REWARD"):
        del os.environ[f"FLEX_JUDGE_{name}"]
    os.environ["FLEX_JUDGE_URL"] = url
    with checks.check("an unscored sample of a group is left out of the loss, and keeps the mean"):
        args = make_args(folder, custom_rm_path=FUNCTION, group_rm=True)
        group = await generate_and_rm_group(args, make_group(["says=2", "mumble", "says=6", "says=7"]), {})
        data = make_train_data(args, group)
        assert data["raw_reward"] == [2, 5, 6, 7], data
        assert data["rewards"][1] == 0, data
        assert data["loss_masks"] == [[1, 1], [0, 0], [1, 1], [1, 1]], data
        assert group[0].metadata["judge_status"] == "ok", group[0].metadata
        assert group[1].metadata["judge_status"] != "ok", group[1].metadata
    with checks.check("normalize_rewards leaves an unscored sample out of its group"):
        args = make_args(folder, custom_rm_path=FUNCTION, custom_reward_post_process_path=NORMALIZE)
        group = await generate_and_rm_group(args, make_group(["says=2", "mumble", "says=6", "says=7"]), {})
        data = make_train_data(args, group)
        scored = make_args(folder, n_samples_per_prompt=3)
        expected = make_train_data(scored, [sample for sample in group if not sample.remove_sample])
        values = [value for i, value in enumerate(data["rewards"]) if i != 1]
        assert all(abs(a - b) < 1e-5 for a, b in zip(values, expected["rewards"], strict=True)), (data, expected)
        assert data["rewards"][1] == 0, data
        assert data["loss_masks"][1] == [0, 0], data
    with checks.check("normalize_rewards equals slime's own normalization where all samples have a score"):
        args = make_args(folder, custom_rm_path=FUNCTION, group_rm=True)
        group = await generate_and_rm_group(args, make_group(["says=2", "says=3", "says=6", "says=7"]), {})
        own = make_train_data(args, group)["rewards"]
        ours = make_train_data(make_args(folder, custom_reward_post_process_path=NORMALIZE), group)["rewards"]
        assert all(abs(a - b) < 1e-5 for a, b in zip(own, ours, strict=True)), (own, ours)
    with checks.check("a sample that is judged alone and has no score ends the run with advice") as detail:
        args = make_args(folder, custom_rm_path=FUNCTION)
        (failure,) = await asyncio.gather(
            generate_and_rm_group(args, make_group(["mumble"]), {}), return_exceptions=True
        )
        assert isinstance(failure, UnscoredError), failure
        assert "--group-rm" in str(failure), failure
        detail.append(str(failure))
    with checks.check("--reward-key selects the number, and the status is beside it"):
        args = make_args(folder, custom_rm_path=FUNCTION, group_rm=True, reward_key="score")
        group = await generate_and_rm_group(args, make_group(["says=2", "mumble", "says=6", "says=7"]), {})
        assert [sample.get_reward_value(args) for sample in group] == [2, 5, 6, 7], group
        assert group[0].reward["judge_status"] == "ok", group[0].reward
        assert make_train_data(args, group)["raw_reward"] == [2, 5, 6, 7]
    with checks.check("the judge sees the messages, images and tools of the metadata"), record_requests(url) as proxy:
        os.environ["FLEX_JUDGE_URL"] = proxy.url
        messages = [{"role": "user", "content": "What is it?"}]
        tools = [{"type": "function", "function": {"name": "zoom"}}]
        group = make_group(["says=2<|im_end|>"], prompt=messages, images=[PIXEL], tools=tools)
        await generate_and_rm_group(make_args(folder, custom_rm_path=FUNCTION, group_rm=True), group, {})
        (sample,) = proxy.samples
        assert "zoom" in json.dumps(sample["prompt"][0]), sample
        assert [part["type"] for part in sample["prompt"][1]["content"]] == ["image", "text"], sample
        assert sample["response"] == "says=2", sample


async def main(url: str) -> None:
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        save_tokenizer(folder)
        await check_route(checks, url, folder)
        await check_function(checks, url, folder)
    checks.finish()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
