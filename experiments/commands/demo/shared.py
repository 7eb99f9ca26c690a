"""The samples and judgments of a demo, which all its steps share and which are stored as they arrive."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.policies.base import Completion, Policy
from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.io.jsonl import Journal
from flex_judge.judges.judgments import Judgment, Status, Usage
from flex_judge.judges.types import Comparison, Message
from flex_judge.reward.groups.methods import Ask


class SampleStore:
    """A policy that stores its samples, and samples none twice. Their ids are `PROMPT/NUMBER`."""

    def __init__(self, model_id: str, rows: Sequence[PromptRow], count: int, journal: Journal) -> None:
        """
        Args:
            model_id: name of the policy.
            rows: the prompts.
            count: samples of each prompt.
            journal: the samples so far.
        """
        self.model_id = model_id
        self.journal = journal
        self.total = len(rows) * count
        self._count = count
        self._ids = {row.prompt: row.id for row in rows}
        self._policy: Policy | None = None
        self._advance: Callable[[], None] = lambda: None

    @property
    def num_stored(self) -> int:
        """Number of stored samples."""
        return len(self.journal.rows)

    def attach_policy(self, policy: Policy, advance: Callable[[], None]) -> None:
        """Use a policy for the missing samples, and call `advance` after each."""
        self._policy, self._advance = policy, advance

    def find_copies(self, id: str) -> list[str]:
        """Other samples of the same prompt with the same text."""
        rows, prompt = self.journal.rows, id.rpartition("/")[0]
        others = [f"{prompt}/{k}" for k in range(self._count)]
        return [other for other in others if other != id and rows[other]["text"] == rows[id]["text"]]

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """Look up stored samples, and sample those that are missing."""
        return await gather_all(self._sample_once(prompt, sampling, k) for k in sample_indices)

    async def _sample_once(self, prompt: Sequence[Message], sampling: Sampling, number: int) -> Completion:
        name = f"{self._ids[tuple(prompt)]}/{number}"
        if name not in self.journal.rows:
            assert self._policy is not None, f"{name} is not sampled"
            (completion,) = await self._policy.sample(prompt, sampling, [number])
            sample = {"id": name, "text": completion.text, "tokens": completion.tokens}
            self.journal.append({**sample, "finish": "length" if completion.cut else "stop"})
            self._advance()
        row = self.journal.rows[name]
        return Completion(row["text"], row["tokens"], row["finish"] == "length")

    async def check_health(self) -> None:
        """Stored samples are always available."""

    def close(self) -> None:
        """Nothing to release; the journal belongs to the caller."""


class JudgmentStore:
    """Judgments of samples. Each different answer to a prompt is judged once; copies of it get the same judgment."""

    def __init__(self, samples: SampleStore, journal: Journal) -> None:
        """
        Args:
            samples: what is judged.
            journal: the judgments so far. Judgments with a status that is not final are made again.
        """
        self.journal = journal
        self._samples = samples
        final = (row for row in journal.rows.values() if Status(row["status"]).is_final)
        self._final = {row["id"]: Judgment.from_json(row) for row in final}
        self._judge: Ask | None = None
        self._advance: Callable[[], None] = lambda: None

    @property
    def num_final(self) -> int:
        """Number of samples with a final judgment."""
        return len(self._final)

    def attach_judge(self, judge: Ask, advance: Callable[[], None]) -> None:
        """Use a judge for the missing judgments, and call `advance` after each."""
        self._judge, self._advance = judge, advance

    async def judge_sample(self, comparison: Comparison) -> Judgment:
        """Return the stored judgment of a sample, or ask the judge and store its judgment."""
        judgment = self._final.get(comparison.id)
        if judgment is None:
            assert self._judge is not None, f"{comparison.id} is not judged"
            judgment = await self._judge(comparison)
            self._store_judgment(judgment)
        for copy in self._samples.find_copies(comparison.id):
            if copy not in self._final:
                provenance = {**judgment.provenance, "copy_of": comparison.id}
                self._store_judgment(replace(judgment, id=copy, usage=Usage(), provenance=provenance))
        return judgment

    def _store_judgment(self, judgment: Judgment) -> None:
        """Store a judgment, final or not: the steps of one run do not ask twice."""
        self.journal.append(judgment.to_json())
        self._final[judgment.id] = judgment
        self._advance()


@dataclass(frozen=True)
class StoredModels:
    """Where the steps find policy and judge, see `flex_judge.alignment.pipeline.models.Models`."""

    samples: SampleStore
    judgments: JudgmentStore

    async def open(self) -> tuple[SampleStore, Ask]:
        return self.samples, self.judgments.judge_sample
