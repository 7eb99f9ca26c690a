"""Make preference pairs of judged answers and train a policy on them with TRL's DPOTrainer.

Shows that `pair_highest_with_lowest` turns judgments into a row of TRL's preference format, or names the reason why
there is no pair. `flex-judge preferences` and `flex-judge dpo` do the same at any size, with filters and a data card.
"""

import argparse

import torch
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

from flex_judge import Comparison, FlexJudge, Message
from flex_judge.alignment import pair_highest_with_lowest
from flex_judge.judges import resolve_model

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="smollm2-135m", help="embedded name, folder or hub id")
    parser.add_argument("--judge", default="flex-smollm2-135m", help="embedded name, folder or hub id")
    parser.add_argument("--engine", default="auto", help="auto, vllm or transformers")
    parser.add_argument("--steps", type=int, default=5)
    options = parser.parse_args()

    budget = 128 if options.judge == "flex-smollm2-135m" else 4096  # thinking tokens
    judge = FlexJudge.from_pretrained(options.judge, options.engine, max_think_tokens=budget, temperature=0.0)
    rows = []
    for n in (3, 4, 6, 7):
        prompt, answers = [Message("user", f"What is {n} + 5?")], [f"It is {n + 5}.", f"It is {n + 6}."]
        judgments = judge.judge([Comparison.of(prompt, answer, rubric="correctness") for answer in answers])
        row = pair_highest_with_lowest(prompt, answers, judgments)
        print(row if isinstance(row, str) else f"{row['chosen'][0]['content']} > {row['rejected'][0]['content']}")
        rows += [] if isinstance(row, str) else [{name: row[name] for name in ("prompt", "chosen", "rejected")}]
    hardware = {"use_cpu": not torch.cuda.is_available(), "bf16": torch.cuda.is_available(), "report_to": "none"}
    arguments = DPOConfig("runs/preferences_to_dpo", max_steps=options.steps, logging_steps=1, **hardware)
    model, adapter = str(resolve_model(options.policy)), LoraConfig(target_modules="all-linear")
    trainer = DPOTrainer(model=model, args=arguments, train_dataset=Dataset.from_list(rows), peft_config=adapter)
    trainer.train()
    print("losses:", [round(entry["loss"], 3) for entry in trainer.state.log_history if "loss" in entry])
