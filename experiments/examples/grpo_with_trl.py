"""Train a policy with TRL's GRPOTrainer on rewards from a judge.

Shows that `JudgeReward` is a reward function like any other. With `--judge-url` it asks a service, which is the usual
way on GPUs. `flex-judge grpo` does the same, and also resumes a run and evaluates the policy before and after.
"""

import argparse

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from flex_judge import FlexJudge, JudgeReward
from flex_judge.judges import resolve_model

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="smollm2-135m", help="embedded name, folder or hub id")
    parser.add_argument("--judge", default="flex-smollm2-135m", help="judge in this process")
    parser.add_argument("--engine", default="auto", help="auto, vllm or transformers")
    parser.add_argument("--judge-url", help="judge service to use instead, such as http://127.0.0.1:8000")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()

    budget = 128 if options.judge == "flex-smollm2-135m" else 4096  # thinking tokens
    judge = options.judge_url or FlexJudge.from_pretrained(options.judge, options.engine, max_think_tokens=budget)
    questions = [f"What is {n} + 5? Write the equation and its result." for n in range(2, 20)]
    prompts = [{"prompt": [{"role": "user", "content": question}]} for question in questions]
    on_gpu = torch.cuda.is_available()
    hardware = {"use_cpu": not on_gpu, "bf16": on_gpu, "report_to": "none"}
    batch = {"per_device_train_batch_size": 4, "num_generations": 4, "max_completion_length": 24}
    trainer = GRPOTrainer(
        model=str(resolve_model(options.policy)),
        args=GRPOConfig("runs/grpo_with_trl", max_steps=options.steps, logging_steps=1, **hardware, **batch),
        train_dataset=Dataset.from_list(prompts),
        reward_funcs=JudgeReward(judge, rubric="correctness"),
    )
    trainer.train()
    print("mean rewards:", [row["reward"] for row in trainer.state.log_history if "reward" in row])
