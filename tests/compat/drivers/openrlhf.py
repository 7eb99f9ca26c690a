"""Drive OpenRLHF's rollout: its remote reward client, its agent path, and what it makes of an unscored completion.

Real are its executors, its rollout actor on Ray and its samples generator. Scripted is the inference engine, which
needs a GPU: it answers with the texts of the prompt's label.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STUBS = str(Path(__file__).resolve().parents[1] / "stubs")
sys.path.insert(0, STUBS)
os.environ["PYTHONPATH"] = os.pathsep.join([STUBS, os.environ.get("PYTHONPATH", "")])

import ray
import torch
from aiohttp import ClientSession, web
from doc_page import read_block
from driver_checks import Checks
from local_ray import start_ray
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.samples_generator import SamplesGenerator
from openrlhf.trainer.ray.vllm_engine import RolloutRayActor, _load_agent_executor
from openrlhf.utils.agent import SingleTurnAgentExecutor
from PIL import Image
from tiny_policy import save_tokenizer
from transformers import AutoTokenizer
from vllm import SamplingParams

from flex_judge.judges.errors import UnscoredError

GENERATIONS = 4
Rollout = RolloutRayActor.__ray_metadata__.modified_class
QUESTION = [{"role": "user", "content": "What is 2 + 3?"}]


class ScriptedEngine:
    """Engine that generates given texts in turn."""

    def __init__(self, tokenizer: Any, texts: list[str]) -> None:
        self._tokenizer, self._texts = tokenizer, itertools.cycle(texts)
        self.output_processor = SimpleNamespace(get_num_unfinished_requests=lambda: 0)

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        """Generate one text, as vLLM's asynchronous engine does."""
        ids = self._tokenizer(f"{next(self._texts)}<|im_end|>", add_special_tokens=False)["input_ids"]
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, text="", finish_reason="stop", logprobs=None)])


class ScriptedRollout(Rollout):  # type: ignore[misc, valid-type]
    """OpenRLHF's rollout actor with a scripted engine."""

    def __init__(self, executor: Any, tokenizer: Any, texts: list[str]) -> None:
        self.executor = executor if not isinstance(executor, str) else _load_agent_executor(executor)
        self.llm, self._mm_pad_token_ids = ScriptedEngine(tokenizer, texts), None


class Driver:
    """State of the checks: the service, the tokenizer, and a folder for agent files."""

    def __init__(self, url: str, folder: str) -> None:
        self.url, self.folder = url, folder
        self.tokenizer = save_tokenizer(folder)
        self.prompt = self.tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
        self.params = SamplingParams(max_tokens=64, logprobs=None)

    def generate(self, executor: Any, texts: list[str], label: Any = "5", images: Any = None) -> list[dict[str, Any]]:
        """Generate and score one completion per text, with OpenRLHF's `generate_responses`."""
        rollout = ScriptedRollout(executor, self.tokenizer, texts)
        settings = (self.prompt, label, self.params, 256, self.tokenizer)
        generation = rollout.generate_responses(*settings, num_samples=len(texts), images=images)
        responses: list[dict[str, Any]] = asyncio.run(generation)
        return responses

    def write_agent(self, **settings: Any) -> str:
        """Write the agent file of the page, with other settings in their place if there are any."""
        code = read_block("openrlhf.md", "judge_agent.py").replace("http://HOST:8000", self.url)
        if settings:
            start = code.index("super().__init__(")
            values = ", ".join(f"{name}={value!r}" for name, value in settings.items())
            code = code[:start] + f'super().__init__("{self.url}", {values})\n'
        path = Path(self.folder) / f"agent_{len(os.listdir(self.folder))}.py"
        path.write_text(code)
        return str(path)

    def make_generator(self, *, dynamic_filtering: bool) -> Any:
        """Make OpenRLHF's samples generator without its trainer."""
        generator = SamplesGenerator.__new__(SamplesGenerator)
        generator.args = SimpleNamespace(
            rollout=SimpleNamespace(batch_size=1, n_samples_per_prompt=GENERATIONS),
            algo=SimpleNamespace(
                advantage=SimpleNamespace(is_correction_level="off"),
                dynamic_filtering_enable=dynamic_filtering,
                dynamic_filtering_range=(-0.1, 1.1),
            ),
        )
        generator.tokenizer = self.tokenizer
        return generator


def check_remote(checks: Checks, driver: Driver) -> None:
    """Use the remote reward model, as `--reward.remote_url` does."""
    remote = f"{driver.url}/get_reward"
    generator = driver.make_generator(dynamic_filtering=False)
    with checks.check("remote rewards reach the experience"):
        responses = driver.generate(SingleTurnAgentExecutor(remote), ["says=3", "says=9"])
        experiences = [generator._process_response_into_experience(response) for response in responses]
        assert [e.rewards.flatten().item() for e in experiences] == [3, 9], experiences
        assert [round(e.scores.flatten().item(), 3) for e in experiences] == [0.222, 0.889], experiences
        assert all(e.info["judge_ok"].item() == 1 for e in experiences), experiences
    with checks.check("several URLs are used in turn"):
        other = remote.replace("127.0.0.1", "localhost")
        executor = SingleTurnAgentExecutor(f"{remote},{other}".split(","))  # as train_ppo_ray splits the option
        responses = driver.generate(executor, ["says=3", "says=9", "says=4", "says=8"])
        assert [response["reward"] for response in responses] == [[3], [9], [4], [8]], responses
    with checks.check("a label gives the judge the prompt without the chat template"):
        label = json.dumps({"prompt": "What is 2 + 3?", "rubric": "correctness"})
        (response,) = driver.generate(SingleTurnAgentExecutor(remote), ["says=5"], label)
        assert response["reward"] == [5], response
        assert response["scores"] == [1], response  # the scale of this rubric ends at 5
    with checks.check("null for an unscored completion ends the run"):
        scored, unscored = driver.generate(SingleTurnAgentExecutor(remote), ["says=3", "mumble"])
        assert unscored["reward"] == unscored["scores"] == [None], unscored
        assert scored["extra_logs"].keys() == unscored["extra_logs"].keys(), unscored
        try:
            generator._process_response_into_experience(unscored)
        except (RuntimeError, TypeError):
            pass
        else:
            raise AssertionError("OpenRLHF now takes null as a reward")
    with checks.check("a service that is away for two tries is tried again"):
        responses = asyncio.run(score_with_failures(driver, remote, failures=2))
        assert responses[0]["reward"] == [7], responses
    with checks.check("a service that stays away gives no reward, and not a number"):
        (response,) = driver.generate(SingleTurnAgentExecutor("http://127.0.0.1:9/get_reward"), ["says=3"])
        assert response["reward"] is None, response
        missing = generator._process_response_into_experience(response)
        (scored,) = driver.generate(SingleTurnAgentExecutor(remote), ["says=3"])
        present = generator._process_response_into_experience(scored)
        # Without any reward, OpenRLHF wants a reward model of its own; a batch with a gap cannot be merged.
        assert Experience.concat_experiences([missing, missing], 0).rewards is None
        try:
            Experience.concat_experiences([present, missing], 0)
        except (AttributeError, TypeError):
            pass
        else:
            raise AssertionError("OpenRLHF now merges experiences without a reward")


async def score_with_failures(driver: Driver, remote: str, failures: int) -> list[dict[str, Any]]:
    """Score one completion through a proxy that answers 503 at first."""
    count = itertools.count()

    async def forward(request: web.Request) -> web.Response:
        if next(count) < failures:
            return web.Response(status=503)
        async with ClientSession() as session, session.post(remote, json=await request.json()) as answer:
            return web.json_response(await answer.json())

    app = web.Application()
    app.router.add_post("/get_reward", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    executor = SingleTurnAgentExecutor(f"http://127.0.0.1:{port}/get_reward")
    rollout = ScriptedRollout(executor, driver.tokenizer, ["says=7"])
    try:
        responses: list[dict[str, Any]] = await rollout.generate_responses(
            driver.prompt, "", driver.params, 256, driver.tokenizer
        )
    finally:
        await runner.cleanup()
    return responses


def check_agent(checks: Checks, driver: Driver) -> None:
    """Use the agent file of the page, as `--train.agent_func_path` does."""
    generator = driver.make_generator(dynamic_filtering=False)
    texts = [f"says={score}" for score in (2, 4, 6, 8)]
    with checks.check("the agent judges whole groups") as detail:
        responses = driver.generate(driver.write_agent(), texts)
        experiences = [generator._process_response_into_experience(response) for response in responses]
        rewards = [e.rewards.item() for e in experiences]
        assert rewards == sorted(rewards), rewards
        assert rewards[0] < rewards[3], rewards
        assert all(response["extra_logs"]["judge_group_whole"] == 1 for response in responses), responses
        detail.append(f"rewards {[round(reward, 2) for reward in rewards]}")
    with checks.check("the agent gives scores from 0 to 1"):
        responses = driver.generate(driver.write_agent(rubric="correctness"), ["says=1", "says=5"])
        assert [response["reward"] for response in responses] == [1, 5], responses
        assert [response["scores"] for response in responses] == [0, 1], responses
    with checks.check("an unscored completion ends the run by default"):
        message = ""
        try:
            driver.generate(driver.write_agent(), ["says=2", "mumble", "says=6", "says=8"])
        except UnscoredError as e:
            message = str(e)
        assert "unscored is 'raise'" in message, message
    with checks.check("unscored='mean' gives the mean of the group"):
        group = {"group_size": 4, "normalize": "center", "unscored": "mean"}
        responses = driver.generate(driver.write_agent(**group), ["says=2", "mumble", "says=6", "says=7"])
        rewards = [response["reward"] for response in responses]
        assert rewards == [-3, 0, 1, 2], responses
        assert sum(rewards) == 0, responses
    with checks.check("images of the prompt reach the judge"):
        picture = Path(driver.folder) / "red.png"
        Image.new("RGB", (32, 32), "red").save(picture)
        agent = driver.write_agent(rubric="general")
        for images, count in (([str(picture)] * 2, 2), (str(picture), 1)):
            (response,) = driver.generate(agent, ["says=media"], images=images)
            assert response["reward"] == count, response


def check_filtering(checks: Checks, driver: Driver) -> None:
    """Drop the prompt of an unscored completion by dynamic filtering, with the samples generator on Ray."""
    with checks.check("dynamic filtering replaces the prompt of an unscored completion"):
        agent = driver.write_agent(unscored="nan")
        texts = ["says=2", "mumble", "says=6", "says=8", "says=3", "says=5", "says=7", "says=9"]
        actor = ray.remote(ScriptedRollout).remote(agent, AutoTokenizer.from_pretrained(driver.folder), texts)
        generator = driver.make_generator(dynamic_filtering=True)
        generator.vllm_engines = [actor]
        batches = iter([(None, [driver.prompt], [""], [None])] * 2)
        experiences, consumed, _ = generator._generate_vllm(
            batches, 1, True, max_new_tokens=64, max_len=256, n_samples_per_prompt=GENERATIONS
        )
        rewards = [e.rewards.item() for e in experiences]
        assert consumed == 2, consumed
        assert not any(math.isnan(reward) for reward in rewards), rewards
        assert sorted(rewards) == [3, 5, 7, 9], rewards


def main(url: str) -> None:
    checks = Checks()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(url, folder)
        check_remote(checks, driver)
        check_agent(checks, driver)
        start_ray(num_cpus=2)
        check_filtering(checks, driver)
        ray.shutdown()
    checks.finish()


if __name__ == "__main__":
    main(sys.argv[1])
