"""Samples and judgments of a demo, shared by all its steps and stored as they arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flex_judge.alignment.data.rows import PromptRow, read_response, response_to_json
from flex_judge.alignment.data.texts import make_equality_key
from flex_judge.alignment.policies.base import Completion, Policy
from flex_judge.experiments.common.progress import Phase
from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.engines.base import Sampling
from flex_judge.judges.io.comparison_rows import COMPARISON, comparison_to_json
from flex_judge.judges.io.jsonl import Journal
from flex_judge.judges.judgments import Judgment, Status, Usage
from flex_judge.judges.types import Comparison, Message
from flex_judge.reward.groups.methods import JudgeFunction


class SampleStore:
    """Policy that stores its samples in a journal and never repeats one. Sample ids are `PROMPT/NUMBER`.

    Args:
        model_id: Name of the policy.
        rows: Prompts.
        count: Number of samples per prompt.
        journal: Stored samples of earlier runs; new samples are appended.
    """

    def __init__(self, model_id: str, rows: Sequence[PromptRow], count: int, journal: Journal) -> None:
        self.model_id = model_id
        self.journal = journal
        self.total = len(rows) * count
        self._count = count
        self._ids = {row.prompt: row.id for row in rows}
        self._policy: Policy | None = None
        self._phase: Phase | None = None

    @property
    def num_stored(self) -> int:
        """Number of stored samples."""
        return len(self.journal.rows)

    def attach_policy(self, policy: Policy, phase: Phase) -> None:
        """Use a policy for the missing samples, and count them in a phase."""
        self._policy, self._phase = policy, phase

    def find_copies(self, id: str) -> list[str]:
        """Find the other samples of the same prompt that a reader cannot tell apart from a sample."""
        rows, prompt = self.journal.rows, id.rpartition("/")[0]
        sample_ids = [f"{prompt}/{k}" for k in range(self._count)]
        key = make_equality_key(rows[id]["text"])
        return [copy for copy in sample_ids if copy != id and make_equality_key(rows[copy]["text"]) == key]

    async def sample(
        self, prompt: Sequence[Message], sampling: Sampling, sample_indices: Sequence[int]
    ) -> list[Completion]:
        """Return stored samples, and sample the missing ones."""
        return await gather_all(self._sample_once(prompt, sampling, k) for k in sample_indices)

    async def _sample_once(self, prompt: Sequence[Message], sampling: Sampling, index: int) -> Completion:
        sample_id = f"{self._ids[tuple(prompt)]}/{index}"
        if sample_id not in self.journal.rows:
            assert self._policy is not None, f"{sample_id} is not stored, and there is no policy"
            assert self._phase is not None
            self._phase.begin_item()
            (completion,) = await self._policy.sample(prompt, sampling, [index])
            sample = {"id": sample_id, "text": response_to_json(completion.response), "tokens": completion.tokens}
            self.journal.append({**sample, "finish": "length" if completion.cut else "stop"})
            self._phase.end_item()
        row = self.journal.rows[sample_id]
        return Completion(read_response(row["text"]), row["tokens"], row["finish"] == "length")

    async def check_health(self) -> None:
        """Do nothing; stored samples are always available."""

    def close(self) -> None:
        """Do nothing; the caller owns the journal."""


class JudgmentStore:
    """Judge that stores its judgments in a journal and judges equal answers to a prompt only once.

    Args:
        samples: Samples to judge.
        journal: Stored judgments of earlier runs; judgments without a final status are repeated.
    """

    def __init__(self, samples: SampleStore, journal: Journal) -> None:
        self.journal = journal
        self._samples = samples
        final_rows = (row for row in journal.rows.values() if Status(row["status"]).is_final)
        self._final = {row["id"]: Judgment.from_json(row) for row in final_rows}
        self._judge: JudgeFunction | None = None
        self._phase: Phase | None = None

    @property
    def num_final(self) -> int:
        """Number of samples with a final judgment."""
        return len(self._final)

    def attach_judge(self, judge: JudgeFunction, phase: Phase) -> None:
        """Use a judge for the missing judgments, and count them in a phase."""
        self._judge, self._phase = judge, phase

    async def judge_sample(self, comparison: Comparison) -> Judgment:
        """Return the stored judgment of a sample, or ask the judge and store its judgment.

        Copies of the sample get the same judgment, without its token usage.
        """
        judgment = self._final.get(comparison.id)
        if judgment is None:
            assert self._judge is not None, f"the judgment of {comparison.id} is not stored, and there is no judge"
            assert self._phase is not None
            self._phase.running += 1
            judgment = await self._judge(comparison)
            self._phase.running -= 1
            self._store_judgment(judgment, comparison)
        for copy in self._samples.find_copies(comparison.id):
            if copy not in self._final:
                provenance = {**judgment.provenance, "copy_of": comparison.id}
                self._store_judgment(replace(judgment, id=copy, usage=Usage(), provenance=provenance), comparison)
        return judgment

    def _store_judgment(self, judgment: Judgment, comparison: Comparison) -> None:
        self.journal.append({**judgment.to_json(), COMPARISON: comparison_to_json(comparison)})
        # A judgment without a final status is repeated only by the next run, not by the next step of this one.
        self._final[judgment.id] = judgment
        if self._phase is not None:
            self._phase.advance(failed=judgment.scores is None)


@dataclass(frozen=True)
class StoredModels:
    """Policy and judge of all steps, see `flex_judge.alignment.pipeline.models.Models`."""

    samples: SampleStore
    judgments: JudgmentStore

    async def open(self) -> tuple[SampleStore, JudgeFunction]:
        """Return the policy and the judge."""
        return self.samples, self.judgments.judge_sample
