"""Parts of the benches with real engines: logged engines, statistics of a log, and generated comparisons."""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

import pytest
from scripts import SETTINGS, judge, policy

from flex_judge.alignment.best_of_n.selection import SelectionSpec
from flex_judge.alignment.data.sources import open_source
from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan
from flex_judge.alignment.pipeline.job import Job
from flex_judge.alignment.pipeline.models import LocalModels
from flex_judge.alignment.pipeline.shards import ShardFolder
from flex_judge.alignment.pipeline.worker import ShardWorker
from flex_judge.alignment.policies import PolicyConfig
from flex_judge.experiments.commands import bench
from flex_judge.experiments.commands.bench import scale
from flex_judge.experiments.commands.bench.logged import Log, LoggedEngine, count_cacheable_tokens, split_into_waves
from flex_judge.experiments.commands.bench.prefix import PrefixConfig
from flex_judge.experiments.commands.bench.routing import RoutingConfig
from flex_judge.experiments.commands.bench.sampling import SamplingConfig, measure_sampling
from flex_judge.experiments.commands.bench.service import ServiceBenchConfig, answer_at_once
from flex_judge.experiments.commands.bench.texts import make_comparisons
from flex_judge.experiments.common.flags import make_config
from flex_judge.judges import Comparison, EngineConfig, FlexJudge, JudgeConfig, JudgeSettings
from flex_judge.judges.engines import Generation, Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import UsageError


def make_request(*prompt: int, reply: tuple[int, ...] = ()) -> tuple[tuple[int, ...], Sampling, Generation]:
    return prompt, Sampling(8), Generation("", reply, "length")


def test_logged_engine_judges_like_the_plain_one_and_logs_requests_in_order() -> None:
    comparisons = make_comparisons(2, 3, 5, 5, random.Random(0))
    plain, logged = ScriptedEngine(judge), LoggedEngine(ScriptedEngine(judge))
    assert FlexJudge(logged, SETTINGS).judge(comparisons) == FlexJudge(plain, SETTINGS).judge(comparisons)
    assert [logged.tokenizer.decode(prompt) for prompt, _, _ in logged.log] == [prompt for prompt, _ in plain.requests]
    assert all(generation.token_ids for _, _, generation in logged.log)


def test_a_request_that_extends_a_reply_is_in_a_later_wave() -> None:
    thinking = [make_request(1, 2, reply=(3,)), make_request(1, 5, reply=(6,))]
    answers = [make_request(1, 5, 6), make_request(1, 2, 3)]
    forced_answer = [make_request(1, 2, 3, 4)]
    waves = split_into_waves([thinking[0], answers[1], thinking[1], forced_answer[0], answers[0]])
    assert [sorted(prompt for prompt, _, _ in wave) for wave in waves] == [
        sorted(prompt for prompt, _, _ in wave) for wave in (thinking, answers, forced_answer)
    ]


@pytest.mark.parametrize(
    ("log", "cached"),
    [
        pytest.param([make_request(1, 2, 3, 4, 5), make_request(1, 2, 3, 4, 6)], 4, id="two whole blocks"),
        pytest.param([make_request(1, 2, 3, 4), make_request(1, 2, 3, 4)], 2, id="the last token is always computed"),
        pytest.param([make_request(1, 2, 3), make_request(1, 2, 9)], 2, id="no partial block"),
        pytest.param([make_request(1, reply=(2, 3)), make_request(1, 2, 3, 4)], 2, id="a reply except its last token"),
        pytest.param([make_request(1, 2, 3), make_request(7, 2, 3)], 0, id="nothing in common"),
    ],
)
def test_counts_cacheable_tokens_in_blocks_of_two(log: Log, cached: int) -> None:
    assert count_cacheable_tokens(log, 2) == cached


@pytest.mark.parametrize("responses", [1, 2])
def test_overhead_script_scores_every_response(responses: int) -> None:
    comparison = Comparison.of("What?", *["This."] * responses)
    (judgment,) = FlexJudge(ScriptedEngine(answer_at_once), SETTINGS).judge([comparison])
    assert judgment.scores == (7.0,) * responses


@pytest.mark.parametrize(
    ("config", "setting"),
    [(PrefixConfig, "candidate_words"), (RoutingConfig, "replicas"),
     (SamplingConfig, "prompts"), (ServiceBenchConfig, "requests")],
)  # fmt: skip
def test_rejects_sizes_of_zero(config: type, setting: str) -> None:
    with pytest.raises(UsageError, match=f"--{setting.replace('_', '-')} must be at least 1, not 0"):
        make_config(config, **{setting: 0})


def test_samples_share_their_prompt_on_one_side_and_no_prefix_on_the_other() -> None:
    engine = ScriptedEngine(policy)
    config = SamplingConfig(prompts=2, samples=3, prompt_words=30, max_tokens=8, repeats=1)
    result = measure_sampling(config, engine, block=16)
    assert [row["side"] for row in result.details["runs"]] == ["shared", "nothing shared"]
    assert (result.details["samples"], result.details["cached_of_possible"], result.met) == (3, 0.0, False)
    prompts = [ids for ids, _ in engine.given]
    warm_up, shared, salted = prompts[:3], prompts[3:9], prompts[9:]
    assert [len(set(side)) for side in (warm_up, shared, salted)] == [1, 2, 6]
    assert len({ids[:16] for ids in salted}) == 6  # no two first blocks are equal
    assert {ids[:8] for ids in warm_up}.isdisjoint({ids[:8] for ids in shared})
    assert {len(ids) for ids in shared} == {len(ids) for ids in salted}


async def test_scale_scripts_give_every_prompt_a_best_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "LATENCY_S", 0.0)
    policy = PolicyConfig("flex_judge.experiments.commands.bench.scale:answer_prompt", "scripted")
    engine = EngineConfig("flex_judge.experiments.commands.bench.scale:judge_answer", "scripted")
    models = LocalModels(policy, JudgeConfig(engine, JudgeSettings(temperature=0.0)))
    plan = BestOfNPlan(models, Sampling(64, temperature=1.0, seed=0), 4, SelectionSpec())
    prompts = scale._write_prompts(tmp_path / "prompts.jsonl", 3)
    report = await ShardWorker(Job(open_source(str(prompts)), plan, tmp_path / "parts")).process_shard(0)
    assert (report.rows, report.done) == (3, 3)
    rows = list(ShardFolder(tmp_path / "parts").read_table_rows("best_of_n", [0]))
    assert all(len(set(row["responses"])) == 4 and row["best"] is not None for row in rows)


def test_rate_counts_only_the_time_when_all_replicas_have_work() -> None:
    times = [0.0, 9.0, *(10.0 + n / 2 for n in range(20)), 80.0, 90.0]
    assert scale._compute_steady_rate(times) == pytest.approx(2.0)


def test_library_output_is_kept_out_of_the_result(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(config: object) -> bench.BenchResult:
        os.write(1, b"(raylet) of no interest\n")
        return bench.BenchResult("prefix", 1.0, 1.0, True)

    monkeypatch.setitem(bench.BENCHES, "prefix", bench.Bench("", bench.BENCHES["prefix"].config, run))
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    assert bench.main(parser.parse_args(["prefix", "--json"])) == 0
    captured = capfd.readouterr()
    assert captured.out.startswith('{"name": "prefix"')
    assert "of no interest" not in captured.err


def test_every_bench_prints_help() -> None:
    for name in bench.BENCHES:
        parser = argparse.ArgumentParser()
        bench.add_arguments(parser)
        with pytest.raises(SystemExit, match="0"):
            parser.parse_args([name, "--help"])
