"""Judge one answer, then two answers against each other.

Shows a score with its expected value, the judge's reasoning, and a preference that does not depend on the order.
"""

import argparse

from flex_judge import Comparison, FlexJudge

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", default="flex-smollm2-135m", help="embedded name, folder or hub id")
    parser.add_argument("--engine", default="auto", help="auto, vllm or transformers")
    parser.add_argument("--max-think-tokens", type=int, help="default: 4096; embedded judge: 128")
    options = parser.parse_args()

    budget = options.max_think_tokens or (128 if options.judge == "flex-smollm2-135m" else 4096)
    judge = FlexJudge.from_pretrained(
        options.judge, options.engine, max_think_tokens=budget, order="both", temperature=0.0
    )
    question, right, wrong = "What is 12 + 15?", "12 + 15 = 27", "12 + 15 = 26"
    single = Comparison.of(question, right, rubric="correctness", id="one answer")
    pair = Comparison.of(question, wrong, right, rubric="correctness", id="two answers")
    for judgment in judge.judge([single, pair]):
        expected = [round(score, 2) for score in judgment.expected_scores or ()]
        print(f"{judgment.id}: {judgment.status}, scores {judgment.scores}, expected scores {expected}")
        print(f"  reasoning: {judgment.reasoning}")
        if judgment.preferred is not None:
            print(f"  preferred: response {'AB'[judgment.preferred]}, orders disagree: {judgment.disagreement:.0%}")
    judge.close()
