"""GRPO with tools: a real policy calls a tool, and the judge of the real trainer reads the call and its result."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from repository import ROOT
from scripts import SETTINGS, whole_judge
from served import served
from training import logged, two_steps

from flex_judge.judges import FlexJudge
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.models import resolve_model
from flex_judge.judges.models.profiles import PROFILES
from flex_judge.reward.trl import JudgeReward

pytestmark = pytest.mark.slow
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
ANSWER = "It is 21 degrees in Rome."
QUESTION = {"role": "user", "content": "What is the weather in Rome?"}
MAX_STEPS, ENOUGH, LEARNING_RATE = 300, 0.02, 3e-3
RUN_S = 500.0  # takes a minute on an idle machine


def get_weather(city: str) -> str:
    """Look up the weather of a city.

    Args:
        city: name of the city.

    Returns:
        The weather.
    """
    return f"21 degrees in {city}"


@pytest.fixture(scope="module")
def calling_policy() -> tuple[Any, Any]:
    """Teach a small model one tool call, so that the real trainer has something to parse and to run."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM
    from trl.chat_template_utils import qwen2_5_chat_template

    folder = resolve_model("smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = qwen2_5_chat_template
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config)
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Rome"}}}],
    }
    result = {"role": "tool", "name": "get_weather", "content": get_weather("Rome")}
    examples = [([QUESTION], CALL), ([QUESTION, call, result], ANSWER)]
    batches = []
    for messages, target in examples:
        prompt = tokenizer.apply_chat_template(
            messages, tools=[get_weather], add_generation_prompt=True, tokenize=False
        )
        prompt_ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        target_ids = tokenizer(target + "<|im_end|>\n", add_special_tokens=False)["input_ids"]
        labels = [-100] * len(prompt_ids) + target_ids
        batches.append((torch.tensor([prompt_ids + target_ids]), torch.tensor([labels])))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for _ in range(MAX_STEPS):
        losses = []
        for input_ids, labels in batches:
            loss = model(input_ids=input_ids, labels=labels).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        if max(losses) < ENOUGH:
            break
    return model, tokenizer


def test_the_judge_of_grpo_reads_tool_calls_and_results(
    calling_policy: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = calling_policy
    judge = FlexJudge.from_pretrained("flex-smollm2-135m", max_think_tokens=16)
    prompts: list[str] = []
    generate = judge.engine.generate

    async def record_prompt(token_ids: Any, *arguments: Any) -> Any:
        prompts.append(judge.renderer.decode(token_ids))
        return await generate(token_ids, *arguments)

    monkeypatch.setattr(judge.engine, "generate", record_prompt)
    trainer = GRPOTrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=JudgeReward(judge),
        tools=[get_weather],
        train_dataset=Dataset.from_list([{"prompt": [QUESTION]}] * 4),
        args=GRPOConfig(
            per_device_train_batch_size=2,
            num_generations=2,
            max_completion_length=96,
            temperature=0.7,
            max_tool_calling_iterations=1,
            learning_rate=1e-6,
            **two_steps(tmp_path),
        ),
    )
    trainer.train()
    assert logged(trainer, "tools/call_frequency")[0] > 0
    assert logged(trainer, "judge/scored") == [1.0, 1.0]
    shown = prompts[0].rpartition("<|im_start|>user\n")[2]
    print(shown)
    expected = (QUESTION["content"], "tool call", "get_weather", '"Rome"', "tool result", "21 degrees in Rome")
    assert re.search(".*".join(map(re.escape, expected)), shown, re.DOTALL), shown


RANK = """
import sys
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from flex_judge import JudgeReward

class Weather:
    def reset(self, **row):
        self.count = 0

    def get_weather(self, city: str) -> str:
        '''Look up the weather of a city.

        Args:
            city: name of the city.

        Returns:
            The weather.
        '''
        self.count += 1
        return f"21 degrees in {city}"

url, policy, out = sys.argv[1:]
GRPOTrainer(
    model=policy,
    reward_funcs=[
        JudgeReward(url, granularity="step", name="steps"),
        JudgeReward(url, method="round_robin", reward="win_rate", group_size=4, name="wins"),
    ],
    environment_factory=Weather,
    train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "What is the weather in Rome?"}]}] * 4),
    args=GRPOConfig(
        output_dir=out, max_steps=2, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, bf16=False,
        per_device_train_batch_size=2, num_generations=4, max_completion_length=96, temperature=0.7,
        max_tool_calling_iterations=1, learning_rate=1e-6, log_completions=True, gradient_checkpointing=False,
    ),
).train()
"""


def test_environments_on_two_ranks_get_a_reward_per_step_and_whole_groups(
    calling_policy: tuple[Any, Any], tmp_path: Path
) -> None:
    import pyarrow.parquet

    for part in calling_policy:
        part.save_pretrained(tmp_path / "policy")
    (tmp_path / "rank.py").write_text(RANK)
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", "rank.py"]
    engine = ScriptedEngine(whole_judge, profile=PROFILES["flex-vl"])
    with served(FlexJudge(engine, SETTINGS)) as service:
        process = subprocess.run(
            [*command, service.url, "policy", "out"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=RUN_S,
        )
    assert process.returncode == 0, process.stderr[-3000:]
    num_steps: list[int] = []
    for step in (1, 2):
        file = tmp_path / "out" / "completions" / f"completions_{step:05d}.parquet"
        rows = pyarrow.parquet.read_table(file).to_pylist()
        assert sum(row["wins"] for row in rows) == pytest.approx(2.0)  # four completions, six pairs
        for row in rows:
            turns = row["steps_turn_rewards"]
            assert len(turns) == sum(message["role"] == "assistant" for message in row["completion"])
            assert row["steps"] == pytest.approx(sum(turns) / len(turns))
            num_steps.append(len(turns))
    assert max(num_steps) == 2  # a call with its result, and an answer
    shown = [prompt for prompt, _ in engine.requests if "tool result" in prompt]
    assert any("21 degrees in Rome" in prompt for prompt in shown)
