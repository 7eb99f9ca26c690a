"""Sample N answers to a question and keep the best one.

Shows that a policy samples, the judge scores each answer, and ties are broken by expected score. `flex-judge best-of-n`
does this for files of prompts, in parallel and resumable.
"""

import argparse
import asyncio

from flex_judge import FlexJudge, Message
from flex_judge.alignment import PolicyConfig, SelectionSpec, load_policy, select_best
from flex_judge.judges.engines import Sampling

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", default="smollm2-135m", help="embedded name, folder or hub id")
    parser.add_argument("--judge", default="flex-smollm2-135m", help="embedded name, folder or hub id")
    parser.add_argument("--engine", default="auto", help="auto, vllm or transformers")
    parser.add_argument("--samples", type=int, default=4)
    options = parser.parse_args()

    policy = load_policy(PolicyConfig(options.policy, options.engine))
    budget = 128 if options.judge == "flex-smollm2-135m" else 4096  # thinking tokens
    judge = FlexJudge.from_pretrained(options.judge, options.engine, max_think_tokens=budget, temperature=0.0)
    prompt = [Message("user", "What is 9 + 7? Write the equation and its result.")]
    sampling = Sampling(max_tokens=24, temperature=0.8, stop=("\n",), seed=0)
    samples = asyncio.run(policy.sample(prompt, sampling, range(options.samples)))
    answers = [sample.text for sample in samples]
    spec = SelectionSpec(method="pointwise", rubric="correctness")
    selection = asyncio.run(select_best(prompt, answers, spec, judge.ajudge))
    for index in selection.ranking:
        print(f"expected score {selection.expected_scores[index]:.2f}: {answers[index]}")
    policy.close()
    judge.close()
