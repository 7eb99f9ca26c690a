"""Drive AReaL: its rollout executor with grouped workflows, its normalization, and its client for agents."""

from __future__ import annotations

import inspect
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from areal.api import ModelResponse, RolloutWorkflow
from areal.api.cli_args import GenerationHyperparameters, InferenceEngineConfig, NormConfig
from areal.experimental.openai import ArealOpenAI
from areal.infra.remote_inf_engine import RemoteInfEngine
from areal.infra.workflow_executor import WorkflowExecutor
from areal.trainer.rl_trainer import PPOTrainer
from areal.utils import logging
from areal.utils.data import Normalization
from doc_page import read_block
from driver_checks import Checks
from PIL import Image
from recording_judge import RecordingJudge
from tiny_policy import save_tokenizer

from flex_judge.judges.errors import UsageError
from flex_judge.reward.areal import EpisodeJudge, JudgeWorkflow

GROUP = 3
logger = logging.getLogger("driver")


class ScriptedEngine:
    """The inference engine, the only part that needs a GPU: its n-th answer is the n-th text that the prompt holds."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._counts: Counter[str] = Counter()

    async def agenerate(self, request: Any) -> ModelResponse:
        """Answer with the next text of the first user message, which holds all of them, separated by `/`."""
        prompt = self._tokenizer.decode(request.input_ids)
        texts = prompt.split("<|im_start|>user\n")[1].split("<|im_end|>")[0].partition(": ")[2].split(" / ")
        count = self._counts[texts[0]]
        self._counts[texts[0]] += 1
        ids = [*self._tokenizer.encode(texts[count % len(texts)]), self._tokenizer.eos_token_id]
        values = {"output_logprobs": [-1.0] * len(ids), "output_versions": [0] * len(ids)}
        return ModelResponse(
            input_tokens=list(request.input_ids), output_tokens=ids, tokenizer=self._tokenizer, **values
        )

    def get_version(self) -> int:
        """Return the version of the weights."""
        return 0


class Setup:
    """Tokenizer, configuration and executor of the checks."""

    def __init__(self, folder: str) -> None:
        self.tokenizer = save_tokenizer(folder)
        self.engine = ScriptedEngine(self.tokenizer)
        self.gconfig = GenerationHyperparameters(n_samples=GROUP, max_new_tokens=8)
        self.config = InferenceEngineConfig(
            experiment_name="judge",
            trial_name="0",
            fileroot=str(Path(folder) / "run"),
            consumer_batch_size=8,
            max_head_offpolicyness=1000,
            check_trajectory_format=True,
        )

    def resolve_workflow(self, judge: str, samples: int = GROUP, **settings: Any) -> Any:
        """Resolve the workflow of the judge from its import path, as AReaL's trainer does."""
        kwargs = {"judge": judge, "settings": settings, "gconfig": self.gconfig, "tokenizer": self.tokenizer}
        return self.resolve("flex_judge.reward.areal.JudgeWorkflow", kwargs, samples)

    def resolve(self, path: str, kwargs: dict[str, Any], samples: int) -> Any:
        """Resolve a workflow with AReaL's code."""
        engine = SimpleNamespace(logger=logger, config=self.config)
        return RemoteInfEngine._resolve_workflow(engine, path, kwargs, samples)

    def process_images(self, images: Any, text: str, **options: Any) -> dict[str, Any]:
        """Stand in for the processor of a vision model, which tiny_policy has not."""
        ids = torch.tensor([self.tokenizer.encode(text)])
        return {"input_ids": ids, "mm_token_type_ids": torch.zeros_like(ids), "pixel_values": torch.zeros(1)}

    def roll_out(self, workflow: Any, *rows: dict[str, Any]) -> list[Any]:
        """Roll out rows together, and return the trajectories that are not rejected, in any order."""
        executor = WorkflowExecutor(self.config, self.engine)
        executor.initialize(logger=logger, train_data_parallel_size=1)
        try:
            for row in rows:
                executor.submit(row, workflow)
            return [trajectory for trajectory in executor.wait(len(rows), timeout=60) if trajectory is not None]
        finally:
            executor.destroy()


def build_row(*texts: str) -> dict[str, Any]:
    """Build a row of a data set whose prompt holds the texts of its rollouts."""
    return {"messages": [{"role": "user", "content": f"Say: {' / '.join(texts)}"}], "answer": "5"}


class TurnAgent(RolloutWorkflow):
    """Agent of two turns, which rewards each completion, as AReaL's own multi-turn workflow does."""

    def __init__(self, judge: EpisodeJudge, tokenizer: Any) -> None:
        self._judge = judge
        self._tokenizer = tokenizer

    async def arun_episode(self, engine: Any, data: dict[str, Any]) -> Any:
        """Run an episode."""
        client = ArealOpenAI(engine=engine, tokenizer=self._tokenizer)
        messages, ids = list(data["messages"]), []
        for _ in range(2):
            completion = await client.chat.completions.create(messages=messages, max_completion_tokens=8, store=True)
            ids.append(completion.id)
            messages.append({"role": "assistant", "content": completion.choices[0].message.content})
            messages.append({"role": "user", "content": "And then?"})
        scores = await self._judge.score_turns(data, messages[len(data["messages"]) : -1])
        for completion_id, score in zip(ids, scores, strict=True):
            client.set_reward(completion_id, score)
        return client.export_interactions(style="individual")


def main(url: str) -> None:
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        setup = Setup(folder)
        compare = {"method": "round_robin", "reward": "win_rate", "group_size": GROUP}
        with checks.check("the code of docs/trainers/areal.md gives the trainer a workflow that compares groups"):
            calls: list[dict[str, Any]] = []
            page: dict[str, Any] = {}
            exec(read_block("areal.md", "train_judged.py").replace("http://HOST:8000", url), page)
            trainer = SimpleNamespace(train=lambda **kwargs: calls.append(kwargs))
            page["train"](trainer, SimpleNamespace(gconfig=setup.gconfig, tokenizer_path=folder))
            inspect.signature(PPOTrainer.train).bind(None, **calls[0])
            workflow = setup.resolve(calls[0]["workflow"], calls[0]["workflow_kwargs"], GROUP)
            (trajectory,) = setup.roll_out(workflow, build_row("says=1", "says=9", "says=5"))
            assert sorted(trajectory["rewards"].tolist()) == [0, 0.5, 1], trajectory["rewards"]
        with checks.check("the rollout executor trains on the win rates of whole groups") as detail:
            rows = [build_row("says=2", "says=9", "says=5"), build_row("says=9", "says=1", "says=4")]
            first, second = setup.roll_out(setup.resolve_workflow(url, **compare), *rows)
            for trajectory in (first, second):
                assert sorted(trajectory["rewards"].tolist()) == [0, 0.5, 1], trajectory["rewards"]
            detail.append(f"rewards {first['rewards'].tolist()}")
        with checks.check("tasks with the same prompt are groups of their own"):
            row = build_row("says=3", "says=6", "says=8", "says=3", "says=6", "says=8")
            groups = setup.roll_out(setup.resolve_workflow(url, **compare), row, row)
            assert [len(group["rewards"]) for group in groups] == [GROUP, GROUP], groups
            assert all(abs(group["rewards"].mean().item() - 0.5) < 1e-6 for group in groups), groups
        with checks.check("the judge sees the messages of the row, and completions without control tokens"):
            with RecordingJudge() as recorder:
                setup.roll_out(setup.resolve_workflow(recorder.url, samples=1), build_row("It is 5."))
            (sample,) = recorder.samples
            assert sample["prompt"] == build_row("It is 5.")["messages"], sample
            assert sample["response"] == "It is 5.", sample
        with checks.check("the judge sees the images of VisionRLVRWorkflow"):
            text = "<|im_start|>user\nSay: It is red.<|im_end|>\n"
            chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Say: It is red."}]}]
            row = {"messages": text, "messages_chat": chat, "images": [Image.new("RGB", (32, 32), "red")]}
            with RecordingJudge() as recorder:
                kwargs = {"gconfig": setup.gconfig, "tokenizer": setup.tokenizer, "enable_thinking": False}
                kwargs |= {"processor": setup.process_images, "judge": recorder.url}
                kwargs["workflow"] = "areal.workflow.vision_rlvr.VisionRLVRWorkflow"
                setup.roll_out(setup.resolve("flex_judge.reward.areal.JudgeWorkflow", kwargs, 1), row)
            (sample,) = recorder.samples
            assert [part["type"] for part in sample["prompt"][0]["content"]] == ["image", "text"], sample
            assert sample["response"] == "It is red.", sample
        with checks.check("an unscored completion rejects its group, and no other"):
            rows = [build_row("says=2", "mumble", "says=4"), build_row("says=4", "says=3", "says=2")]
            (accepted,) = setup.roll_out(setup.resolve_workflow(url), *rows)
            assert sorted(accepted["rewards"].tolist()) == [2, 3, 4], accepted
        with checks.check("the reason: a group without one member would mix the groups after it"):
            normalize = Normalization(NormConfig(mean_level="group", std_level=None, group_size=GROUP))
            centered = normalize(torch.tensor([1.0, 3.0, 5.0, 6.0, 7.0, 8.0])).tolist()
            assert centered == [-2, 0, 2, -1, 0, 1], centered
            centered = normalize(torch.tensor([1.0, 3.0, 6.0, 7.0, 8.0])).tolist()
            assert centered[3:] == [7, 8], centered  # a member is missing, and the last group is not centered
        with checks.check("an agent rewards each turn"):
            row = build_row("says=3", "says=8")
            (trajectory,) = setup.roll_out(TurnAgent(EpisodeJudge(url), setup.tokenizer), row)
            assert sorted(trajectory["rewards"].tolist()) == [3, 8], trajectory
        with checks.check("comparisons without group_size are a setting error"):
            message = ""
            try:
                JudgeWorkflow(url, {"method": "round_robin"}, gconfig=setup.gconfig, tokenizer=setup.tokenizer)
            except UsageError as e:
                message = str(e)
            assert "gconfig.n_samples" in message, message
    checks.finish()


if __name__ == "__main__":
    main(sys.argv[1])
