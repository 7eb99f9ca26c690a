"""Shards of a run: processed by one worker, written atomically, failures recorded, reproducible."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from file_forms import BAD_TEXT, FORMS, format_parquet
from scripts import SETTINGS

from flex_judge.alignment.best_of_n.selection import SelectionSpec
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan
from flex_judge.alignment.pipeline.job import InvalidInputError, Job, RowResult, choose_shard_rows
from flex_judge.alignment.pipeline.models import LocalModels
from flex_judge.alignment.pipeline.preferences import PreferencePlan
from flex_judge.alignment.pipeline.runner import list_pending_shards
from flex_judge.alignment.pipeline.shards import ShardFolder, ShardReport, sum_reports
from flex_judge.alignment.pipeline.worker import AllFailedError, ShardWorker
from flex_judge.alignment.policies import PolicyConfig
from flex_judge.alignment.preferences import CardStats
from flex_judge.judges import Comparison, EngineConfig, JudgeConfig, Judgment, Status
from flex_judge.judges.engines import Sampling
from flex_judge.judges.errors import AccessError, EngineLostError, MediaError, UsageError

MODELS = LocalModels(
    PolicyConfig("scripts:drawn_policy", "scripted"),
    JudgeConfig(EngineConfig("scripts:fair_judge", "scripted"), SETTINGS),
)
SAMPLING = Sampling(64, temperature=0.8, seed=0)
BEST_OF_N_PLAN = BestOfNPlan(MODELS, SAMPLING, 4, SelectionSpec(rubric="correctness"))
PREFERENCE_PLAN = PreferencePlan(MODELS, SAMPLING, 4, "correctness")


@dataclass(frozen=True)
class TotalStats:
    """Mergeable count for tests."""

    total: int

    def __add__(self, other: TotalStats) -> TotalStats:
        return TotalStats(self.total + other.total)

    def to_json(self) -> dict[str, Any]:
        return {"total": self.total}


@dataclass(frozen=True)
class FakePlan:
    """Plan and work without a model; rows in `failed` fail in the given way."""

    failed: Mapping[str, str]
    tables: tuple[str, ...] = ("out",)

    async def open(self) -> FakePlan:
        return self

    async def __call__(self, row: PromptRow) -> RowResult:
        match self.failed.get(row.id):
            case "rejected":
                raise UsageError("too long")
            case "invalid":
                raise InvalidInputError("prompt: gone.png: cannot be read")
            case "media":
                raise MediaError("cat.png: the model takes no image")
            case "engine":
                raise EngineLostError("the policy died")
            case "access":
                raise AccessError("401: no such key")
            case "bug":
                raise KeyError("nothing")
            case "partly":
                return RowResult({"out": [{"id": row.id}]}, TotalStats(1), needs_retry=True)
        return RowResult({"out": [{"id": row.id, "said": row.prompt[0].content}]}, TotalStats(1))


def make_job(tmp_path: Path, plan: Any, rows: int = 10, **settings: Any) -> Job:
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": f"Question {n}?", "id": f"q{n}"}) + "\n" for n in range(rows)))
    return Job(open_source(str(file)), plan, tmp_path / "parts", shard_rows=4, **settings)


async def run_shards(job: Job) -> list[ShardReport]:
    worker = ShardWorker(job)
    return [
        await worker.process_shard(n)
        for n in list_pending_shards(ShardFolder(job.folder), job.shard_count, job.retry_rejected)
    ]


def join_tables(job: Job, *tables: str) -> list[str]:
    shard_folder = ShardFolder(job.folder)
    for table in tables:
        shard_folder.join_table(table, shard_folder.read_reports(), job.folder / f"{table}.all")
    return [(job.folder / f"{table}.all").read_text() for table in tables]


async def test_processes_each_row_once_and_keeps_the_order(tmp_path: Path) -> None:
    job = make_job(tmp_path, FakePlan({}))
    reports = await run_shards(job)
    assert [(r.shard, r.rows, r.done) for r in reports] == [(0, 4, 4), (1, 4, 4), (2, 2, 2)]
    (text,) = join_tables(job, "out")
    assert [json.loads(line)["id"] for line in text.splitlines()] == [f"q{n}" for n in range(10)]
    assert sum_reports(reports).rows == 10
    assert [r.stats for r in ShardFolder(job.folder).read_reports().values()] == [
        {"total": 4},
        {"total": 4},
        {"total": 2},
    ]


async def test_records_failed_rows_and_continues_with_the_others(tmp_path: Path) -> None:
    job = make_job(tmp_path, FakePlan({"q1": "rejected", "q5": "engine"}))
    file = tmp_path / "prompts.jsonl"
    file.write_text(file.read_text().replace('{"prompt": "Question 2?", "id": "q2"}', "{"))
    job = replace(job, source=open_source(str(file)))
    total = sum_reports(await run_shards(job))
    assert (total.rows, total.done, total.failed) == (10, 7, {"engine_lost": 1, "invalid_input": 1, "rejected": 1})
    failed = list(ShardFolder(job.folder).read_table_rows("failed", range(3)))
    assert [row["id"] for row in failed] == ["q1", None, "q5"]
    assert failed[0]["problem"] == "prompts.jsonl, line 2: too long"
    assert "prompts.jsonl, line 3: not JSON" in failed[1]["problem"]


@pytest.mark.parametrize("form", ["plain", "gzip", "zstd", "UTF-16", "JSON list", "Parquet"])
async def test_rows_that_cannot_be_read_are_recorded_once_and_a_rerun_has_nothing_to_do(
    form: str, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Question {n}?", "id": f"q{n}", "note": "x"} for n in range(10)]
    suffix, format_rows = FORMS[form]
    file = tmp_path / f"rows{suffix}"
    if form == "Parquet":
        rows[2]["prompt"] = rows[3]["note"] = BAD_TEXT
        file.write_bytes(format_parquet(rows, row_group_size=4))
    else:
        file.write_bytes(format_rows([*rows[:2], [1], *rows[3:]]))  # type: ignore[list-item]
    job = replace(make_job(tmp_path, FakePlan({})), source=open_source(str(file)))
    assert (len(job.source), job.shard_count) == (10, 3)
    total = sum_reports(await run_shards(job))
    assert (total.rows, total.done, total.failed) == (10, 9, {"invalid_input": 1})
    (problem,) = [row["problem"] for row in ShardFolder(job.folder).read_table_rows("failed", range(3))]
    assert problem.startswith((f"rows{suffix}, row 3", f"rows{suffix}, line 3"))
    again = replace(job, source=open_source(str(file)))
    assert again.source.digest == job.source.digest
    assert list_pending_shards(ShardFolder(again.folder), again.shard_count) == []


async def test_rerun_retries_only_rows_lost_with_a_model(tmp_path: Path) -> None:
    job = make_job(tmp_path, FakePlan({"q1": "rejected", "q5": "engine", "q9": "bug"}))
    total = sum_reports(await run_shards(job))
    assert (total.failed, total.again) == ({"engine_lost": 1, "failed": 1, "rejected": 1}, 2)
    assert list_pending_shards(ShardFolder(job.folder), job.shard_count) == [1, 2]
    await run_shards(replace(job, plan=FakePlan({"q1": "rejected"})))
    assert list_pending_shards(ShardFolder(job.folder), job.shard_count) == []
    assert sum_reports(list(ShardFolder(job.folder).read_reports().values())).failed == {"rejected": 1}


async def test_single_row_that_crashes_a_model_does_not_end_the_run(tmp_path: Path) -> None:
    job = replace(make_job(tmp_path, FakePlan({"q0": "engine"}), rows=1), shard_rows=1)
    assert [(r.done, r.again) for r in await run_shards(job)] == [(0, 1)]


async def test_consecutive_failures_end_the_run_without_a_report(tmp_path: Path) -> None:
    job = make_job(tmp_path, FakePlan({f"q{n}": "engine" for n in range(4)}), rows_at_once=2)
    with pytest.raises(AllFailedError, match="4 consecutive rows failed; last error: the policy died"):
        await run_shards(job)
    assert ShardFolder(job.folder).read_reports() == {}


async def test_consecutive_identical_rejections_end_the_run_without_a_report(tmp_path: Path) -> None:
    job = make_job(tmp_path, FakePlan({f"q{n}": "rejected" for n in range(4)}), rows_at_once=2)
    with pytest.raises(AllFailedError, match="4 consecutive rows were rejected with the same error: too long"):
        await run_shards(job)
    assert ShardFolder(job.folder).read_reports() == {}


@pytest.mark.parametrize("kind", ["invalid", "media"])
async def test_rows_that_cannot_be_judged_never_end_the_run(tmp_path: Path, kind: str) -> None:
    job = make_job(tmp_path, FakePlan({f"q{n}": kind for n in range(9)}), rows_at_once=2)
    assert sum_reports(await run_shards(job)).failed == {"invalid_input": 9}
    rows = list(ShardFolder(job.folder).read_table_rows("failed", range(3)))
    assert {row["reason"] for row in rows} == {"invalid_input"}
    assert rows[0]["problem"].startswith("prompts.jsonl, line 1: ")
    assert list_pending_shards(ShardFolder(job.folder), job.shard_count) == []
    await run_shards(replace(job, plan=FakePlan({}), retry_rejected=True))
    assert sum_reports(list(ShardFolder(job.folder).read_reports().values())).failed == {}


@dataclass(frozen=True)
class PickyModels:
    """Models whose judge cannot take the prompts, or the responses, with some words."""

    prompt: str = "unjudgeable"
    response: str = "unjudgeable"

    async def open(self) -> tuple[Any, Any]:
        policy, ask = await MODELS.open()

        async def ask_picky(comparison: Comparison) -> Judgment:
            if self.prompt in str(comparison.prompt[0].content):
                detail = "images[0]: long.png: 5000 x 1 pixels are too elongated"
                return Judgment.from_failure(comparison.id, Status.INVALID_INPUT, detail)
            if self.response in str(comparison.responses[0]):
                return Judgment.from_failure(comparison.id, Status.INVALID_INPUT, "responses[0]: no text")
            return cast("Judgment", await ask(comparison))

        return policy, ask_picky


@pytest.mark.parametrize("plan", [BEST_OF_N_PLAN, PREFERENCE_PLAN], ids=["best of n", "preferences"])
async def test_a_prompt_that_cannot_be_judged_is_lost_with_its_reason(tmp_path: Path, plan: Any) -> None:
    job = make_job(tmp_path, replace(plan, models=PickyModels(prompt="Question 1?")), rows=4)
    reports = await run_shards(job)
    assert (sum_reports(reports).done, sum_reports(reports).failed) == (3, {"invalid_input": 1})
    (failed,) = ShardFolder(job.folder).read_table_rows("failed", [0])
    assert failed == {
        "id": "q1",
        "reason": "invalid_input",
        "problem": "prompts.jsonl, line 2: images[0]: long.png: 5000 x 1 pixels are too elongated",
    }
    assert list_pending_shards(ShardFolder(job.folder), job.shard_count, retry_rejected=True) == [0]
    job = replace(job, plan=plan, retry_rejected=True)
    assert sum_reports(await run_shards(job)).failed == {}


async def test_a_response_that_cannot_be_judged_loses_against_the_others(tmp_path: Path) -> None:
    plain = make_job(tmp_path, BEST_OF_N_PLAN, rows=1)
    await run_shards(plain)
    (row,) = ShardFolder(plain.folder).read_table_rows("best_of_n", [0])
    best = row["responses"][row["best"]]
    plan = replace(BEST_OF_N_PLAN, models=PickyModels(response=best))
    picky = replace(plain, plan=plan, folder=tmp_path / "picky")
    assert sum_reports(await run_shards(picky)).failed == {}
    (row,) = ShardFolder(picky.folder).read_table_rows("best_of_n", [0])
    assert row["text"] not in (None, best)
    assert {s for s, r in zip(row["statuses"], row["responses"], strict=True) if r == best} == {"invalid_input"}


async def test_retries_rejected_rows_on_request(tmp_path: Path) -> None:
    job = make_job(tmp_path, FakePlan({"q1": "rejected"}))
    await run_shards(job)
    assert list_pending_shards(ShardFolder(job.folder), job.shard_count) == []
    assert list_pending_shards(ShardFolder(job.folder), job.shard_count, retry_rejected=True) == [0]
    await run_shards(replace(job, plan=FakePlan({}), retry_rejected=True))
    assert sum_reports(list(ShardFolder(job.folder).read_reports().values())).failed == {}
    assert list_pending_shards(ShardFolder(job.folder), job.shard_count, retry_rejected=True) == []


async def test_rejected_key_ends_the_run_without_a_report(tmp_path: Path) -> None:
    job = make_job(tmp_path, FakePlan({"q2": "access"}))
    with pytest.raises(AccessError, match="401"):
        await run_shards(job)
    assert ShardFolder(job.folder).read_reports() == {}


async def test_row_with_lost_judgments_is_kept_and_retried(tmp_path: Path) -> None:
    job = make_job(tmp_path, FakePlan({"q3": "partly"}))
    assert [(r.done, r.again) for r in await run_shards(job)] == [(4, 1), (4, 0), (2, 0)]
    assert list_pending_shards(ShardFolder(job.folder), job.shard_count) == [0]


async def test_shard_without_a_report_is_processed_again(tmp_path: Path) -> None:
    job = make_job(tmp_path, FakePlan({}))
    await run_shards(job)
    complete_tables = join_tables(job, "out")
    (job.folder / "report-000001.json").unlink()
    (job.folder / "out-000001.jsonl").write_text('{"id": "q4", "sa')
    assert list_pending_shards(ShardFolder(job.folder), job.shard_count) == [1]
    await run_shards(job)
    assert join_tables(job, "out") == complete_tables


@pytest.mark.parametrize(
    ("plan", "tables"), [(BEST_OF_N_PLAN, BEST_OF_N_PLAN.tables), (PREFERENCE_PLAN, PREFERENCE_PLAN.tables)]
)
async def test_two_runs_write_the_same_bytes(plan: Any, tables: tuple[str, ...], tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        job = make_job(tmp_path / name, plan, rows_at_once=1 if name == "one" else 8)
        await run_shards(job)
        texts.append(join_tables(job, *tables))
    assert texts[0] == texts[1]
    assert all(texts[0])


async def test_best_of_n_writes_answers_scores_and_judgments(tmp_path: Path) -> None:
    job = make_job(tmp_path, BEST_OF_N_PLAN)
    await run_shards(job)
    rows = list(ShardFolder(job.folder).read_table_rows("best_of_n", range(3)))
    judgment_counts = Counter(j["prompt"] for j in ShardFolder(job.folder).read_table_rows("judgments", range(3)))
    assert [row["id"] for row in rows] == [f"q{n}" for n in range(10)]
    for row in rows:
        assert len(row["responses"]) == len(row["scores"]) == 4
        assert row["text"] == row["responses"][row["best"]]
        assert row["scores"][row["best"]] == max(row["scores"])
        assert judgment_counts[row["id"]] == len(set(row["responses"]))


async def test_preferences_are_counted_for_the_card(tmp_path: Path) -> None:
    job = make_job(tmp_path, PREFERENCE_PLAN)
    await run_shards(job)
    shard_folder = ShardFolder(job.folder)
    stats = sum((CardStats.from_json(r.stats or {}) for r in shard_folder.read_reports().values()), CardStats())
    pairs = list(shard_folder.read_table_rows("preferences", range(3)))
    assert stats.prompts == 10
    assert stats.pairs == stats.rows == len(pairs) > 0
    assert stats.pairs + stats.dropped.total() == 10
    assert all(pair["score_chosen"] > pair["score_rejected"] for pair in pairs)


@pytest.mark.parametrize(("rows", "shard"), [(1, 1), (200, 4), (1_000, 20), (200_000, 256)])
def test_shard_size_depends_on_the_number_of_rows(rows: int, shard: int) -> None:
    assert choose_shard_rows(rows) == shard
