"""Samples and judgments that the steps of a demo share: stored at once, requested once, copied to equal answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.policies import Completion
from flex_judge.experiments.commands.demo.shared import JudgmentStore, SampleStore
from flex_judge.experiments.common.progress import Phase
from flex_judge.judges import Comparison, Judgment, Message, Status, Usage
from flex_judge.judges.engines import Sampling
from flex_judge.judges.io.jsonl import Journal, read_rows

ROW = PromptRow("q", (Message("user", "?"),))
TEXTS = ("same", "other", "same")


class FakePolicy:
    model_id = "policy"

    def __init__(self) -> None:
        self.sampled: list[int] = []

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        self.sampled += sample_indices
        return [Completion(TEXTS[k], 2, k == 1) for k in sample_indices]

    async def check_health(self) -> None: ...

    def close(self) -> None: ...


async def test_samples_are_stored_and_never_repeated(tmp_path: Path) -> None:
    for sampled in ([0, 1, 2], []):
        with Journal(tmp_path / "completions.jsonl") as journal:
            samples, policy = SampleStore("policy", [ROW], 3, journal), FakePolicy()
            samples.attach_policy(policy, Phase("sampling", None, 0, ""))
            completions = await samples.sample(ROW.prompt, Sampling(8), range(3))
            assert completions == [
                Completion("same", 2, False),
                Completion("other", 2, True),
                Completion("same", 2, False),
            ]
            assert (policy.sampled, samples.num_stored, samples.total) == (sampled, 3, 3)
            assert samples.find_copies("q/0") == ["q/2"]


async def test_copies_get_the_same_judgment_and_failed_judgments_are_repeated(tmp_path: Path) -> None:
    judged_ids = []
    for status, num_final in ((Status.ENGINE_LOST, 0), (Status.UNPARSEABLE, 2)):
        with Journal(tmp_path / "completions.jsonl") as texts, Journal(tmp_path / "judgments.jsonl") as journal:
            samples = SampleStore("policy", [ROW], 3, texts)
            samples.attach_policy(FakePolicy(), Phase("sampling", None, 0, ""))
            await samples.sample(ROW.prompt, Sampling(8), range(3))
            judgments = JudgmentStore(samples, journal)
            assert judgments.num_final == 0

            async def judge(comparison: Comparison, status: Status = status) -> Judgment:
                judged_ids.append(comparison.id)
                return Judgment(comparison.id, status, None, None, "", usage=Usage(5, 0, 5))

            judgments.attach_judge(judge, Phase("judging", None, 0, ""))
            for _ in range(2):  # two steps of a run
                await judgments.judge_sample(Comparison("q/0", ROW.prompt, ("same",)))
            assert JudgmentStore(samples, journal).num_final == num_final
    assert judged_ids == ["q/0", "q/0"]
    copy = list(read_rows(tmp_path / "judgments.jsonl"))[-1]
    assert (copy["id"], copy["provenance"]["copy_of"], copy["usage"]["prompt_tokens"]) == ("q/2", "q/0", 0)
