"""Drive verifiers: its judge loader, `Task.score` on traces, and `vf-eval` with a scripted policy."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import verifiers.v1 as vf
from driver_checks import Checks
from http_servers import record_requests, serve_policy
from verifiers.v1.errors import TaskError
from verifiers.v1.utils.loaders import judge_class, load_judge

PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
TOOL = vf.Tool(name="zoom", description="Zoom in.", parameters={"type": "object", "properties": {}})
TASKSET = """
import verifiers.v1 as vf


class QuestionTaskset(vf.Taskset[vf.Task, vf.TasksetConfig]):
    def load(self):
        for question in ("What is 2 + 3?", "What is 7 + 8?"):
            yield vf.Task(vf.TaskData(prompt=question, system_prompt="Be brief."), self.config.task)


__all__ = ["QuestionTaskset"]
"""
"""A taskset as a user writes it."""
CONFIGURATION = """
[[env.taskset.task.judges]]
id = "flex-judge"
url = "{url}"
weight = 0.1
"""


def make_task(url: str, **settings: Any) -> vf.Task:
    config = vf.TaskConfig.model_validate({"judges": [{"id": "flex-judge", "url": url, **settings}]})
    image = vf.ImageUrlContentPart(image_url=vf.ImageUrlSource(url=PIXEL))
    question = vf.UserMessage(content=[image, vf.TextContentPart(text="What is it?")])
    return vf.Task(vf.TaskData(prompt=[question], system_prompt="Be brief."), config)


def make_trace(task: vf.Task, *messages: Any) -> vf.Trace:
    """Make the trace of a rollout: a system prompt of the harness, the prompt, and the messages of the agent."""
    prompt = [vf.SystemMessage(content="Work in a folder of your own."), *task.data.prompt]
    nodes = [
        vf.MessageNode(
            parent=i - 1 if i else None, message=message, sampled=getattr(message, "role", "") == "assistant"
        )
        for i, message in enumerate([*prompt, *messages])
    ]
    return vf.Trace(
        task=vf.TraceTask(type="Task", data=task.data, key=task.key, hash=task.hash),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        nodes=nodes,
        tools=[TOOL],
    )


def answer(text: str) -> vf.AssistantMessage:
    return vf.AssistantMessage(content=text)


def get_failure(task: vf.Task, trace: vf.Trace) -> str:
    """Score a trace, and return the error that fails its rollout; empty if there is none."""
    try:
        asyncio.run(task.score(trace))
    except TaskError as e:
        return str(e)
    return ""


def check_traces(checks: Checks, url: str) -> None:
    """Check `Task.score` on traces."""
    with checks.check("the judge is found by its id") as detail:
        task = make_task(url, name="quality", weight=0.1)
        (config,) = task.config.judges
        judge = load_judge(config)
        assert type(judge) is judge_class("flex-judge"), judge
        assert judge.reward_name == "quality"
        detail.append(f"{type(judge).__module__}.{type(judge).__name__}")
    with checks.check("Task.score judges roles, tool calls and images of a trace"), record_requests(url) as proxy:
        task = make_task(proxy.url, input_price=1.0, output_price=2.0)
        call = vf.ToolCall(id="1", name="zoom", arguments='{"by": 2}')
        result = [vf.ImageUrlContentPart(image_url=vf.ImageUrlSource(url=PIXEL)), vf.TextContentPart(text="zoomed")]
        trace = make_trace(
            task,
            vf.AssistantMessage(content=None, reasoning_content="I zoom in.", tool_calls=[call]),
            vf.ToolMessage(tool_call_id="1", content=result, name="zoom"),
            answer("Red, says=7."),
        )
        asyncio.run(task.score(trace))
        (sample,) = proxy.samples
        assert [message["role"] for message in sample["prompt"]] == ["system", "user"], sample["prompt"]
        assert "Be brief." in json.dumps(sample["prompt"][0]), sample["prompt"]
        assert "Zoom in." in json.dumps(sample["prompt"][0]), sample["prompt"]
        assert [part["type"] for part in sample["prompt"][1]["content"]] == ["image", "text"], sample["prompt"]
        roles = [message["role"] for message in sample["response"]]
        assert roles == ["assistant", "tool", "assistant"], sample["response"]
        assert sample["response"][0]["tool_calls"][0]["function"]["name"] == "zoom", sample["response"]
        assert sample["response"][1]["content"][0]["type"] == "image", sample["response"]
        assert trace.rewards["flex-judge"].score == 7, trace.rewards
        assert trace.metrics["flex-judge/score"] == 7, trace.metrics
    with checks.check("reasoning, tokens and cost are on the trace") as detail:
        (record,) = trace.info["judge_calls"]
        assert "I look at 1 responses" in record["response"]["message"]["content"], record
        assert record["response"]["parsed"]["status"] == "ok", record
        assert record["request"]["rubric"] == "general", record
        (usage,) = trace.extra_usage
        assert usage.input_tokens > 0, usage
        assert usage.completion_tokens > 0, usage
        assert abs(usage.cost - (usage.input_tokens + 2 * usage.completion_tokens) / 1e6) < 1e-9, usage
        json.dumps(trace.to_record())
        detail.append(repr(usage))
    with checks.check("the view last_reply shows the last reply only"), record_requests(url) as proxy:
        task = make_task(proxy.url, view="last_reply")
        asyncio.run(task.score(make_trace(task, answer("A first try."), answer("Red, says=4."))))
        assert proxy.samples[0]["response"] == "Red, says=4.", proxy.samples
    with checks.check("a trace without a score fails its rollout, and is no number"):
        task = make_task(url)
        trace = make_trace(task, answer("mumble"))
        failure = get_failure(task, trace)
        assert "UnscoredError: 1 of 1 rollouts have no score" in failure, failure
        assert trace.rewards == {"flex-judge": None}, trace.rewards
        assert trace.info["judge_calls"][0]["response"]["parsed"]["value"] is None, trace.info
    with checks.check("a service that does not answer fails the rollout"):
        task = make_task("http://127.0.0.1:9", deadline_s=0.5)
        trace = make_trace(task, answer("says=4"))
        failure = get_failure(task, trace)
        assert "timeout" in failure, failure
        assert trace.rewards == {"flex-judge": None}, trace.rewards
    with checks.check("traces of a task are compared with each other"):
        task = make_task(url, method="round_robin", reward="win_rate", group_size=4, run="compat")
        traces = [make_trace(task, answer(f"says={i}")) for i in (1, 3, 5, 7)]

        async def score_traces() -> None:
            await asyncio.gather(*(task.score(trace) for trace in traces))

        asyncio.run(score_traces())
        values = [trace.rewards["flex-judge"].score for trace in traces]
        assert values == [0, 1 / 3, 2 / 3, 1], values
        assert all(trace.metrics["flex-judge/whole"] == 1 for trace in traces)


def run_eval(folder: str, policy: str, name: str, *options: str) -> list[dict[str, Any]]:
    """Run `vf-eval` as its users do, and return the traces that it wrote."""
    command = [str(Path(sys.executable).parent / "vf-eval"), "questions", "-m", "policy", "--no-push", "--no-rich"]
    command += ["--client.base-url", policy, "-o", folder, "--run.name", name]
    command += ["--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess", *options]
    environment = {**os.environ, "PYTHONPATH": folder}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    file = Path(folder) / name / "traces.jsonl"
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    assert all(episode["ok"] for episode in episodes), episodes
    return [trace for episode in episodes for trace in episode["traces"]]


def check_eval(checks: Checks, url: str) -> None:
    """Check `vf-eval` with the null harness and a scripted policy."""
    with tempfile.TemporaryDirectory() as folder, serve_policy(["says=2", "says=4", "says=6", "says=8"]) as policy:
        (Path(folder) / "questions.py").write_text(TASKSET)
        with checks.check("vf-eval with the judge in the configuration of its tasks"):
            (Path(folder) / "judge.toml").write_text(CONFIGURATION.format(url=url))
            traces = run_eval(folder, policy, "tasks", "-r", "2", "@", "judge.toml")
            scores = sorted(trace["rewards"]["flex-judge"]["score"] for trace in traces)
            assert scores == [2, 4, 6, 8], scores
            assert all(trace["rewards"]["flex-judge"]["weight"] == 0.1 for trace in traces), traces
            assert all(trace["extra_usage"][0]["completion_tokens"] > 0 for trace in traces), traces
        with checks.check("vf-eval with the environment that compares attempts"):
            options = ["--env.id", "flex-judge", "--env.n", "4", "--env.max-concurrent-agents", "None"]
            options += ["--env.judge.url", url, "--env.judge.method", "round_robin", "--env.judge.reward", "win_rate"]
            traces = run_eval(folder, policy, "attempts", "-n", "1", *options)
            scores = sorted(trace["rewards"]["flex-judge"]["score"] for trace in traces)
            assert scores == [0, 1 / 3, 2 / 3, 1], scores
            replies = {
                trace["nodes"][-1]["message"]["content"]: trace["metrics"]["flex-judge/rank"] for trace in traces
            }
            assert replies == {"says=2": 0, "says=4": 1 / 3, "says=6": 2 / 3, "says=8": 1}, replies


def main(url: str) -> None:
    checks = Checks()
    check_traces(checks, url)
    check_eval(checks, url)
    checks.finish()


if __name__ == "__main__":
    main(sys.argv[1])
