"""Judge by a rubric of your own.

Shows that a rubric is a TOML file whose path is its name. The embedded judge was trained on sums only, so use a larger
judge for other criteria.
"""

import argparse
from pathlib import Path

from flex_judge import Comparison, FlexJudge
from flex_judge.judges import load_rubric

RUBRIC = """\
criteria = "correctness and brevity"
scale = "1-5"
example = [2, 4]                  # scores that show the judge the format of an answer
responses = "1-2"                 # number of responses it can judge at a time
notes = "An answer of more than 20 words gets at most 3."
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", default="flex-smollm2-135m", help="embedded name, folder or hub id")
    parser.add_argument("--engine", default="auto", help="auto, vllm or transformers")
    parser.add_argument("--rubric", type=Path, default=Path("brevity.toml"), help="written if it does not exist")
    options = parser.parse_args()

    if not options.rubric.exists():
        options.rubric.write_text(RUBRIC, encoding="utf-8")
    print("scale:", load_rubric(str(options.rubric)).scale)  # an error names the field that is wrong
    budget = 128 if options.judge == "flex-smollm2-135m" else 4096  # thinking tokens
    judge = FlexJudge.from_pretrained(options.judge, options.engine, max_think_tokens=budget)
    (judgment,) = judge.judge([Comparison.of("What is 7 + 8?", "It is 15.", rubric=str(options.rubric))])
    print(f"{judgment.status}: score {judgment.scores}, expected score {judgment.expected_scores}")
    judge.close()
