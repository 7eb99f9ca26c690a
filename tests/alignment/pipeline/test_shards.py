"""Shards of a run: worked on by one worker, written whole, lost rows told, and the same in every run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from scripts import SETTINGS

from flex_judge.alignment.best_of_n.selection import SelectionSpec
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan
from flex_judge.alignment.pipeline.job import Job, RowResult, choose_shard_rows
from flex_judge.alignment.pipeline.models import LocalModels
from flex_judge.alignment.pipeline.preferences import PreferencePlan
from flex_judge.alignment.pipeline.runner import list_pending_shards
from flex_judge.alignment.pipeline.shards import ShardFolder, ShardReport, sum_reports
from flex_judge.alignment.pipeline.worker import AllFailedError, ShardWorker
from flex_judge.alignment.policies import PolicyConfig
from flex_judge.alignment.preferences import CardStats
from flex_judge.judges import EngineConfig, JudgeConfig
from flex_judge.judges.engines import Sampling
from flex_judge.judges.errors import AccessError, EngineLostError, UsageError

MODELS = LocalModels(
    PolicyConfig("scripts:drawn_policy", "scripted"),
    JudgeConfig(EngineConfig("scripts:fair_judge", "scripted"), SETTINGS),
)
SAMPLING = Sampling(64, temperature=0.8, seed=0)
BEST = BestOfNPlan(MODELS, SAMPLING, 4, SelectionSpec(rubric="correctness"))
PAIRS = PreferencePlan(MODELS, SAMPLING, 4, "correctness")


@dataclass(frozen=True)
class Sum:
    """Counts for tests."""

    total: int

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.total + other.total)

    def to_json(self) -> dict[str, Any]:
        return {"total": self.total}


@dataclass(frozen=True)
class Plan:
    """Work that needs no model, and loses the rows that it is told to lose."""

    failed: Mapping[str, str]
    tables: tuple[str, ...] = ("out",)

    async def open(self) -> Plan:
        return self

    async def __call__(self, row: PromptRow) -> RowResult:
        match self.failed.get(row.id):
            case "rejected":
                raise UsageError("too long")
            case "engine":
                raise EngineLostError("the policy died")
            case "access":
                raise AccessError("401: no such key")
            case "bug":
                raise KeyError("nothing")
            case "partly":
                return RowResult({"out": [{"id": row.id}]}, Sum(1), again=True)
        return RowResult({"out": [{"id": row.id, "said": row.prompt[0].content}]}, Sum(1))


def job(tmp_path: Path, plan: Any, rows: int = 10, **settings: Any) -> Job:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Question {n}?", "id": f"q{n}"}) + "\n" for n in range(rows)))
    return Job(open_source(str(file)), plan, tmp_path / "parts", shard_rows=4, **settings)


async def work(job: Job) -> list[ShardReport]:
    worker = ShardWorker(job)
    return [
        await worker.process_shard(n)
        for n in list_pending_shards(ShardFolder(job.folder), job.shard_count, job.retry_rejected)
    ]


def joined(job: Job, *tables: str) -> list[str]:
    parts = ShardFolder(job.folder)
    for table in tables:
        parts.join_table(table, parts.read_reports(), job.folder / f"{table}.all")
    return [(job.folder / f"{table}.all").read_text() for table in tables]


async def test_every_row_is_worked_on_once_and_kept_in_order(tmp_path: Path) -> None:
    asked = job(tmp_path, Plan({}))
    reports = await work(asked)
    assert [(r.shard, r.rows, r.done) for r in reports] == [(0, 4, 4), (1, 4, 4), (2, 2, 2)]
    (text,) = joined(asked, "out")
    assert [json.loads(line)["id"] for line in text.splitlines()] == [f"q{n}" for n in range(10)]
    assert sum_reports(reports).rows == 10
    assert [r.stats for r in ShardFolder(asked.folder).read_reports().values()] == [
        {"total": 4},
        {"total": 4},
        {"total": 2},
    ]


async def test_rows_that_are_lost_are_told_and_the_others_go_on(tmp_path: Path) -> None:
    asked = job(tmp_path, Plan({"q1": "rejected", "q5": "engine"}))
    file = tmp_path / "prompts.jsonl"
    file.write_text(file.read_text().replace('{"prompt": "Question 2?", "id": "q2"}', "{"))
    asked = replace(asked, source=open_source(str(file)))
    total = sum_reports(await work(asked))
    assert (total.rows, total.done, total.failed) == (10, 7, {"bad row": 1, "engine_lost": 1, "rejected": 1})
    failed = list(ShardFolder(asked.folder).read_table_rows("failed", range(3)))
    assert [row["id"] for row in failed] == ["q1", None, "q5"]
    assert failed[0]["problem"] == "prompts.jsonl, line 2: too long"
    assert "prompts.jsonl, line 3: not JSON" in failed[1]["problem"]


async def test_a_rerun_tries_again_what_a_lost_model_cost_and_nothing_else(tmp_path: Path) -> None:
    asked = job(tmp_path, Plan({"q1": "rejected", "q5": "engine", "q9": "bug"}))
    total = sum_reports(await work(asked))
    assert (total.failed, total.again) == ({"engine_lost": 1, "failed": 1, "rejected": 1}, 2)
    assert list_pending_shards(ShardFolder(asked.folder), asked.shard_count) == [1, 2]
    await work(replace(asked, plan=Plan({"q1": "rejected"})))
    assert list_pending_shards(ShardFolder(asked.folder), asked.shard_count) == []
    assert sum_reports(list(ShardFolder(asked.folder).read_reports().values())).failed == {"rejected": 1}


async def test_a_single_row_that_kills_a_model_does_not_end_the_run(tmp_path: Path) -> None:
    asked = replace(job(tmp_path, Plan({"q0": "engine"}), rows=1), shard_rows=1)
    assert [(r.done, r.again) for r in await work(asked)] == [(0, 1)]


async def test_row_after_row_lost_ends_the_run_and_costs_no_row(tmp_path: Path) -> None:
    asked = job(tmp_path, Plan({f"q{n}": "engine" for n in range(4)}), rows_at_once=2)
    with pytest.raises(AllFailedError, match="4 rows in a row were lost, the last one: the policy died"):
        await work(asked)
    assert ShardFolder(asked.folder).read_reports() == {}


async def test_row_after_row_refused_in_the_same_words_ends_the_run_and_costs_no_row(tmp_path: Path) -> None:
    asked = job(tmp_path, Plan({f"q{n}": "rejected" for n in range(4)}), rows_at_once=2)
    with pytest.raises(AllFailedError, match="4 rows in a row were refused: too long"):
        await work(asked)
    assert ShardFolder(asked.folder).read_reports() == {}


async def test_what_was_refused_is_tried_again_where_that_is_asked_for(tmp_path: Path) -> None:
    asked = job(tmp_path, Plan({"q1": "rejected"}))
    await work(asked)
    assert list_pending_shards(ShardFolder(asked.folder), asked.shard_count) == []
    assert list_pending_shards(ShardFolder(asked.folder), asked.shard_count, retry_rejected=True) == [0]
    await work(replace(asked, plan=Plan({}), retry_rejected=True))
    assert sum_reports(list(ShardFolder(asked.folder).read_reports().values())).failed == {}
    assert list_pending_shards(ShardFolder(asked.folder), asked.shard_count, retry_rejected=True) == []


async def test_an_endpoint_that_wants_another_key_ends_the_run_at_once_and_costs_no_row(tmp_path: Path) -> None:
    asked = job(tmp_path, Plan({"q2": "access"}))
    with pytest.raises(AccessError, match="401"):
        await work(asked)
    assert ShardFolder(asked.folder).read_reports() == {}


async def test_a_row_with_judgments_that_were_lost_is_kept_and_tried_again(tmp_path: Path) -> None:
    asked = job(tmp_path, Plan({"q3": "partly"}))
    assert [(r.done, r.again) for r in await work(asked)] == [(4, 1), (4, 0), (2, 0)]
    assert list_pending_shards(ShardFolder(asked.folder), asked.shard_count) == [0]


async def test_what_a_killed_worker_left_of_a_shard_does_not_count(tmp_path: Path) -> None:
    asked = job(tmp_path, Plan({}))
    await work(asked)
    whole = joined(asked, "out")
    (asked.folder / "report-000001.json").unlink()
    (asked.folder / "out-000001.jsonl").write_text('{"id": "q4", "sa')
    assert list_pending_shards(ShardFolder(asked.folder), asked.shard_count) == [1]
    await work(asked)
    assert joined(asked, "out") == whole


@pytest.mark.parametrize(("plan", "tables"), [(BEST, BEST.tables), (PAIRS, PAIRS.tables)])
async def test_two_runs_give_the_same_bytes(plan: Any, tables: tuple[str, ...], tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        asked = job(tmp_path / name, plan, rows_at_once=1 if name == "one" else 8)
        await work(asked)
        texts.append(joined(asked, *tables))
    assert texts[0] == texts[1]
    assert all(texts[0])


async def test_best_of_n_writes_the_best_answer_with_its_scores_and_what_the_judge_said(tmp_path: Path) -> None:
    asked = job(tmp_path, BEST)
    await work(asked)
    rows = list(ShardFolder(asked.folder).read_table_rows("best_of_n", range(3)))
    judged = Counter(j["prompt"] for j in ShardFolder(asked.folder).read_table_rows("judgments", range(3)))
    assert [row["id"] for row in rows] == [f"q{n}" for n in range(10)]
    for row in rows:
        assert len(row["responses"]) == len(row["scores"]) == 4
        assert row["text"] == row["responses"][row["best"]]
        assert row["scores"][row["best"]] == max(row["scores"])
        assert judged[row["id"]] == len(set(row["responses"]))


async def test_preferences_are_counted_for_their_card(tmp_path: Path) -> None:
    asked = job(tmp_path, PAIRS)
    await work(asked)
    parts = ShardFolder(asked.folder)
    stats = sum((CardStats.from_json(r.stats or {}) for r in parts.read_reports().values()), CardStats())
    pairs = list(parts.read_table_rows("preferences", range(3)))
    assert stats.prompts == 10
    assert stats.pairs == stats.rows == len(pairs) > 0
    assert stats.pairs + stats.dropped.total() == 10
    assert all(pair["score_chosen"] > pair["score_rejected"] for pair in pairs)


@pytest.mark.parametrize(("rows", "shard"), [(1, 1), (200, 4), (1_000, 20), (200_000, 256)])
def test_shards_are_small_enough_to_show_progress_and_few_enough_to_count(rows: int, shard: int) -> None:
    assert choose_shard_rows(rows) == shard
