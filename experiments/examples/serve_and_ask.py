"""Serve a judge over HTTP and ask it from another process.

Shows that `flex-judge serve` prints its address when it is ready, and that the client needs neither torch nor Ray. In
practice the service runs on its own machine, and the client only has its URL.
"""

import argparse
import subprocess
import sys

from flex_judge import Comparison, JudgeClient, Message
from flex_judge.reward import RewardSpec, Sample

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--judge", default="flex-smollm2-135m", help="embedded name, folder or hub id")
    parser.add_argument("--engine", default="auto", help="auto, vllm or transformers")
    options = parser.parse_args()

    command = [sys.executable, "-m", "flex_judge.experiments.cli", "serve", "--port", "0"]
    command += ["--model", options.judge, "--engine", options.engine]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            client = JudgeClient(service.stdout.readline().strip())
            question, answers = "What is 7 + 8?", ["It is 15.", "It is 16."]
            (judgment,) = client.judge_sync([Comparison.of(question, *answers, rubric="correctness")])
            print("preferred:", judgment.preferred)
            samples = [Sample((Message("user", question),), answer) for answer in answers]
            spec = RewardSpec(rubric="correctness", method="round_robin", reward="win_rate")
            print("rewards:", [reward.value for reward in client.rewards_sync(samples, spec)])
        finally:
            service.terminate()  # the service answers the requests that it has accepted, then it ends
