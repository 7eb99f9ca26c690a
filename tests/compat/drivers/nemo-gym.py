"""Drive NeMo-Gym: its collection of rollouts, its simple agent, and the resources server of the judge, over HTTP."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from driver_checks import Checks
from fastapi import FastAPI, Request
from http_servers import record_requests
from nemo_gym import rollout_collection
from nemo_gym.rollout_collection import RolloutCollectionConfig, RolloutCollectionHelper
from nemo_gym.server_utils import (
    BaseServerConfig,
    GlobalAIOHTTPAsyncClientConfig,
    ServerClient,
    set_global_aiohttp_client,
)
from omegaconf import OmegaConf
from responses_api_agents.simple_agent.app import SimpleAgent, SimpleAgentConfig

from flex_judge.reward import nemo_gym
from flex_judge.reward.nemo_gym import JudgeResourcesServer, JudgeResourcesServerConfig

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
CONFIGURATION = """
flex_judge:
  resources_servers:
    flex_judge:
      entrypoint: app.py
      domain: rlhf
      rubric: general
flex_judge_agent:
  responses_api_agents:
    simple_agent:
      entrypoint: app.py
      resources_server: {type: resources_servers, name: flex_judge}
      model_server: {type: responses_api_models, name: policy_model}
policy_model:
  responses_api_models:
    scripted: {entrypoint: app.py}
"""
TOOL = {"type": "function", "name": "zoom", "description": "Zoom in.", "parameters": {}, "strict": False}


class ZoomServer(JudgeResourcesServer):
    """Resources server of a task with a tool, as users write it."""

    def setup_webserver(self) -> FastAPI:
        app = super().setup_webserver()

        @app.post("/zoom")
        async def zoom(request: Request) -> dict[str, Any]:
            return {"zoomed": (await request.json())["by"]}

        return app


class ScriptedModel:
    """Model server: its first answer calls the tool, if there is one; the next is the text in the user's message."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.post("/v1/responses")(self.respond)
        self.answers: list[str] = []

    async def respond(self, request: Request) -> dict[str, Any]:
        body = await request.json()
        items = body["input"]
        reasoning = {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "I think."}]}
        if body.get("tools") and not any(item.get("type") == "function_call_output" for item in items):
            call = {"type": "function_call", "call_id": "c", "id": "c", "name": "zoom", "arguments": '{"by": 2}'}
            output = [reasoning, {**call, "status": "completed"}]
        else:
            part = {"type": "output_text", "text": self.answers.pop(0), "annotations": []}
            message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": [part]}
            output = [reasoning, message]
        answer = {"id": "1", "created_at": 1, "model": "policy", "object": "response", "output": output}
        return {**answer, "parallel_tool_calls": True, "tool_choice": "auto", "tools": []}


class Gym:
    """NeMo-Gym's servers in this process, each on a port of its own."""

    def __init__(self, folder: str, client: ServerClient, model: ScriptedModel) -> None:
        self.folder, self.client, self.model = Path(folder), client, model
        self.judge: Any = None

    async def collect(self, name: str, rows: list[dict[str, Any]], answers: list[str], repeats: int = 1) -> list[Any]:
        """Collect rollouts as `gym eval run` does, one after another, and return what it wrote to the main file."""
        self.model.answers = list(answers)
        source = self.folder / f"{name}.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        config = RolloutCollectionConfig(
            agent_name="flex_judge_agent",
            input_jsonl_fpath=str(source),
            output_jsonl_fpath=str(self.folder / f"{name}_rollouts.jsonl"),
            num_repeats=repeats,
            upload_rollouts_to_wandb=False,
        )
        helper = RolloutCollectionHelper()
        client = self.client
        type(helper).setup_server_client = lambda *_: client  # instead of NeMo-Gym's head server
        await helper.run_from_config(config)
        return self.read(f"{name}_rollouts.jsonl")

    def read(self, name: str) -> list[Any]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]


@asynccontextmanager
async def serve(app: Any) -> AsyncIterator[int]:
    """Serve an application on a free port until the block ends."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def run_gym(url: str, **settings: Any) -> AsyncIterator[Gym]:
    """Run the servers of the configuration."""
    values = OmegaConf.create(CONFIGURATION)
    client = ServerClient(head_server_config=BaseServerConfig(host="127.0.0.1", port=1), global_config_dict=values)
    model = ScriptedModel()

    def read_config(kind: type[Any], name: str, group: str, key: str, **extra: Any) -> Any:
        return kind(**OmegaConf.to_container(values[name][group][key]), host="127.0.0.1", port=0, name=name, **extra)

    config = read_config(
        JudgeResourcesServerConfig, "flex_judge", "resources_servers", "flex_judge", url=url, **settings
    )
    agent = read_config(SimpleAgentConfig, "flex_judge_agent", "responses_api_agents", "simple_agent")
    apps = {
        ("flex_judge", "resources_servers", "flex_judge"): ZoomServer(
            config=config, server_client=client
        ).setup_webserver(),
        ("flex_judge_agent", "responses_api_agents", "simple_agent"): SimpleAgent(
            config=agent, server_client=client
        ).setup_webserver(),
        ("policy_model", "responses_api_models", "scripted"): model.app,
    }
    with tempfile.TemporaryDirectory() as folder:
        ports = []
        async with _serve_all(list(apps.values()), ports):
            for (name, group, key), port in zip(apps, ports, strict=True):
                values[name][group][key].update({"host": "127.0.0.1", "port": port})
            yield Gym(folder, client, model)


@asynccontextmanager
async def _serve_all(apps: list[Any], ports: list[int]) -> AsyncIterator[None]:
    if not apps:
        yield
        return
    async with serve(apps[0]) as port:
        ports.append(port)
        async with _serve_all(apps[1:], ports):
            yield


def make_row(question: Any, **fields: Any) -> dict[str, Any]:
    return {"responses_create_params": {"input": question}, **fields}


async def main(url: str) -> None:
    checks = Checks()
    set_global_aiohttp_client(GlobalAIOHTTPAsyncClientConfig())
    with checks.check("the names of NeMo-Gym's failure fields"):
        assert nemo_gym.FAILURE_CLASS_KEY == rollout_collection.NG_FAILURE_CLASS_KEY
        assert nemo_gym.TERMINAL_KEY == rollout_collection.NG_TERMINAL_KEY
    with checks.check("rollouts with tools and an image are judged with their roles"), record_requests(url) as proxy:
        async with run_gym(proxy.url) as gym:
            parts = [
                {"type": "input_image", "image_url": PIXEL, "detail": "auto"},
                {"type": "input_text", "text": "What?"},
            ]
            row = make_row([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}])
            row["responses_create_params"] |= {"tools": [TOOL], "instructions": "Use tools."}
            (result,) = await gym.collect("tools", [row], ["Red, says=7."])
        assert result["reward"] == result["judge_score"] == 7, result
        assert result["judge_status"] == "ok", result
        assert "I look at 1 responses" in result["judge_reasoning"], result
        (sample,) = proxy.samples
        assert [message["role"] for message in sample["prompt"]] == ["system", "developer", "user"], sample
        assert "Zoom in." in json.dumps(sample["prompt"][0]), sample
        assert [part["type"] for part in sample["prompt"][2]["content"]] == ["image", "text"], sample
        assert [message["role"] for message in sample["response"]] == ["assistant", "tool", "assistant"], sample
        assert sample["response"][0]["tool_calls"][0]["function"]["name"] == "zoom", sample
        assert sample["response"][0]["reasoning_content"] == "I think.", sample
        assert sample["response"][1]["content"] == '{"zoomed":2}', sample
    with checks.check("a rollout without a score goes to the file of failures, and not into the metrics"):
        async with run_gym(url) as gym:
            rows = [make_row(f"Question {i}?") for i in range(3)]
            results = await gym.collect("failures", rows, ["says=4", "mumble", "says=8"])
            failures = gym.read("failures_rollouts_failures.jsonl")
            (metrics,) = json.loads((gym.folder / "failures_rollouts_aggregate_metrics.json").read_text())
        assert sorted(result["reward"] for result in results) == [4, 8], results
        (failure,) = failures
        assert failure["_ng_failure_class"] == "judge_failed", failure
        assert failure["judge_status"] != "ok", failure
        assert metrics["agent_metrics"]["mean/reward"] == 6, metrics
    with checks.check("a judge service that does not answer gives failures, which a resumed run tries again"):
        async with run_gym("http://127.0.0.1:9", deadline_s=0.5) as gym:
            assert not await gym.collect("dead", [make_row("Question?")], ["says=4"])
            (failure,) = gym.read("dead_rollouts_failures.jsonl")
        assert failure["judge_status"] == "timeout", failure
        assert "_ng_failure_terminal" not in failure, failure
    with checks.check("rollouts of a task are compared with each other"):
        settings = {"method": "round_robin", "reward": "win_rate", "group_size": 4, "run": "compat"}
        async with run_gym(url, **settings) as gym:
            rows = [make_row("Question?"), make_row("Question?", note="the same prompt, another task")]
            answers = [f"says={i}" for i in (1, 2, 3, 4, 5, 6, 7, 8)]
            results = await gym.collect("groups", rows, answers, repeats=4)
        for task in (0, 1):
            values = sorted(r["reward"] for r in results if r["_ng_task_index"] == task)
            assert values == [0, 1 / 3, 2 / 3, 1], results
        assert all(result["judge_whole"] == 1 for result in results)
    checks.finish()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
