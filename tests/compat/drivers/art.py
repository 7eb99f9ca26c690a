"""Drive ART: its capture of rollouts, its gathering of groups, RULER, and the judge as `after_each`."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import art
from art.pipeline_trainer.trainer import PipelineTrainer, make_group_rollout_fn
from art.rewards import ruler_score_group
from doc_page import read_block
from driver_checks import Checks
from openai import AsyncOpenAI
from openai.types.chat.chat_completion import Choice
from openai.types.chat.chat_completion_message import ChatCompletionMessage
from recording_judge import RecordingJudge

from flex_judge.judges.errors import ServiceUnavailableError
from flex_judge.reward import JudgeClient
from flex_judge.reward.art import GroupJudge

QUESTION = {"role": "user", "content": "What is 2 + 3?"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'}}
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


class Policy(BaseHTTPRequestHandler):
    """Chat completions: the first of each conversation calls a tool if there are tools, the last says `says=N`."""

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        calls_tool = bool(request.get("tools")) and request["messages"][-1]["role"] == "user"
        content = None if calls_tool else f"It is 5. {request['metadata']['answer']}"
        message = {"role": "assistant", "content": content} | ({"tool_calls": [CALL]} if calls_tool else {})
        choice = {"index": 0, "finish_reason": "tool_calls" if calls_tool else "stop", "message": message}
        body = {"id": "c", "object": "chat.completion", "created": 0, "model": "policy", "choices": [choice]}
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Log nothing."""


def build_legacy_trajectory(answer: str, reward: float = 0.0) -> art.Trajectory:
    """Build a trajectory in ART's older form, with an assistant message of the prompt before the policy's."""
    message = ChatCompletionMessage(role="assistant", content=answer)
    shot = [{"role": "user", "content": "What is 1 + 1?"}, {"role": "assistant", "content": "It is 2."}]
    items = [*shot, QUESTION, Choice(index=0, finish_reason="stop", message=message)]
    return art.Trajectory(messages_and_choices=items, reward=reward, metrics={"steps": 1})


async def roll_out(client: AsyncOpenAI, answer: str) -> art.Trajectory:
    """Roll out a conversation with a tool, as an agent does, inside ART's capture."""
    with art.Trajectory() as trajectory:
        messages: list[Any] = [QUESTION]
        for _ in range(2):
            extra = {"metadata": {"answer": answer}}
            completion = await client.chat.completions.create(model="policy", messages=messages, tools=TOOLS, **extra)
            message = completion.choices[0].message
            messages.append(message.model_dump(exclude_none=True))
            if message.tool_calls:
                messages.append({"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "5"})
    return trajectory


async def gather(judge: Any, *answers: str, rewards: tuple[float, ...] = ()) -> list[art.TrajectoryGroup]:
    """Gather one group of finished trajectories with a judge."""

    async def make_group() -> art.TrajectoryGroup:
        pairs = zip(answers, rewards or [0.0] * len(answers), strict=True)
        return art.TrajectoryGroup([build_legacy_trajectory(*pair) for pair in pairs], metadata={"scenario": "sum"})

    return await art.gather_trajectory_groups([make_group()], after_each=judge, pbar_desc=None)


async def run_checks(url: str, checks: Checks, policy_url: str) -> None:
    compare = GroupJudge(url, method="round_robin", reward="win_rate")
    with checks.check("the code of docs/trainers/art.md gathers judged groups"):
        page: dict[str, Any] = {}
        exec(read_block("art.md", "judge_groups.py").replace("http://HOST:8000", url), page)
        numbers = iter(range(1, 17))

        async def roll_out_once(model: Any, scenario: str) -> art.Trajectory:
            return build_legacy_trajectory(f"{scenario} says={next(numbers)}")

        groups = await page["gather_judged_groups"](None, ["one", "two"], roll_out_once)
        assert [len(group) for group in groups] == [8, 8], groups
        for group in groups:
            assert abs(sum(trajectory.reward for trajectory in group) - 4) < 1e-9, group
    with checks.check("gather_trajectory_groups gets win rates, and keeps the group's metadata") as detail:
        (group,) = await gather(compare, "says=2", "says=9", "says=5")
        values = [trajectory.reward for trajectory in group]
        assert values == [0, 1, 0.5], values
        assert group.metadata == {"scenario": "sum"}, group.metadata
        assert group.trajectories[1].metrics["judge_reward"] == 1, group.trajectories[1].metrics
        assert "I look at" in group.trajectories[0].logs[0], group.trajectories[0].logs
        with RecordingJudge() as recorder:
            await gather(GroupJudge(recorder.url), "It is 5.")
        (sample,) = recorder.samples
        assert [message["role"] for message in sample["prompt"]] == ["user", "assistant", "user"], sample["prompt"]
        assert sample["response"] == "It is 5.", sample["response"]
        detail.append(f"rewards {values}")
    with checks.check("captured rollouts with tool calls are judged, and the judge is not captured"):
        client = AsyncOpenAI(base_url=policy_url, api_key="none")

        async def make_group() -> art.TrajectoryGroup:
            return await art.trajectory_group([roll_out(client, f"says={n}") for n in (3, 8)])

        (group,) = await art.gather_trajectory_groups([make_group()], after_each=GroupJudge(url), pbar_desc=None)
        assert sorted(trajectory.reward for trajectory in group) == [3, 8], group
        with art.Trajectory() as outer:
            assert await GroupJudge(url)(group) is not None
        assert not outer.exchanges, outer.exchanges
        with RecordingJudge() as recorder:
            await GroupJudge(recorder.url)(group)
        sample = recorder.samples[0]
        assert [message["role"] for message in sample["prompt"]] == ["system", "user"], sample["prompt"]
        assert "add" in json.dumps(sample["prompt"][0]["tools"]), sample["prompt"]
        assert [message["role"] for message in sample["response"]] == ["assistant", "tool", "assistant"], sample
        assert sample["response"][0]["tool_calls"][0]["function"] == CALL["function"], sample["response"]
    with checks.check("an unscored trajectory becomes an exception of the group, and an unscored group is left out"):
        (group,) = await gather(GroupJudge(url), "says=2", "mumble", "says=5")
        assert [trajectory.reward for trajectory in group] == [2, 5], group
        (failure,) = group.exceptions
        assert "UnscoredError" in failure.type, failure
        assert "unparseable" in failure.message, failure
        assert await gather(GroupJudge(url), "mumble", "mumble") == []
    with checks.check("a trajectory with several conversations is left out, and the others are judged"):
        trajectory = build_legacy_trajectory("says=2")
        history = art.trajectories.LegacyHistory(messages_and_choices=[QUESTION])
        split = trajectory.model_copy(update={"additional_histories": [history]})
        group = await GroupJudge(url)(art.TrajectoryGroup([split, build_legacy_trajectory("says=7")]))
        assert [trajectory.reward for trajectory in group] == [7], group
        assert "additional histories" in group.exceptions[0].message, group.exceptions
    with checks.check("it complements RULER and rewards of the rollout"):
        scores = [{"trajectory_id": str(i), "explanation": "", "score": 0.5 * i} for i in (1, 2)]
        reply = {"mock_response": json.dumps({"scores": scores})}

        async def score_twice(group: art.TrajectoryGroup) -> art.TrajectoryGroup | None:
            ranked = await ruler_score_group(group, "openai/gpt-4o-mini", reply)
            return None if ranked is None else await GroupJudge(url, independent_weight=1.0)(ranked)

        (group,) = await gather(score_twice, "says=2", "says=9", rewards=(7.0, 7.0))
        assert [trajectory.reward for trajectory in group] == [2.5, 10], group
        first = group.trajectories[0].metrics
        assert (first["independent_reward"], first["ruler_score"], first["judge_reward"]) == (7, 0.5, 2), first
    with checks.check("a rollout function of PipelineTrainer returns judged groups"):
        rollout = make_group_rollout_fn(lambda *_: asyncio.sleep(0, build_legacy_trajectory("says=4")), n=2)
        group = await GroupJudge(url)(await rollout(None, None, None))
        PipelineTrainer._check_all_failed(None, group)
        assert [trajectory.reward for trajectory in group] == [4, 4], group
    with checks.check("a dead judge costs a group, and then ends the run"):
        dead = GroupJudge(JudgeClient("http://127.0.0.1:9", deadline_s=0.5, probe_s=0.5))
        assert await gather(dead, "says=2", "says=3") == []
        try:
            await gather(dead, "says=2", "says=3")
        except ServiceUnavailableError:
            pass
        else:
            raise AssertionError("expected ServiceUnavailableError")


def main(url: str) -> None:
    checks = Checks()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Policy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asyncio.run(run_checks(url, checks, f"http://127.0.0.1:{server.server_port}/v1"))
    checks.finish()


if __name__ == "__main__":
    main(sys.argv[1])
