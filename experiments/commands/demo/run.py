"""`flex-judge demo`: best-of-N, preferences and report on the embedded model, from the same samples and judgments.

Both steps run the code of their commands on one policy, one judge service and one Ray cluster. An interrupted demo can
be resumed: `completions.jsonl` and `judgments.jsonl` grow as work is done; the other files are written at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flex_judge.alignment.best_of_n.selection import SelectionSpec
from flex_judge.alignment.data.prompts import PromptColumns, parse_prompt_row
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan
from flex_judge.alignment.pipeline.job import RowResult
from flex_judge.alignment.pipeline.models import ServedModels
from flex_judge.alignment.pipeline.preferences import PreferencePlan
from flex_judge.alignment.tasks import arithmetic
from flex_judge.experiments.commands.demo.results import write_results
from flex_judge.experiments.commands.demo.shared import JudgmentStore, SampleStore, StoredModels
from flex_judge.experiments.common.console import redirect_libraries
from flex_judge.experiments.common.data_runs.config import DataFlags
from flex_judge.experiments.common.data_runs.services import RunServices
from flex_judge.experiments.common.flags import make_config, setting
from flex_judge.experiments.common.judge_config import start_timeout_setting
from flex_judge.experiments.common.progress import Progress
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.experiments.common.stopping import run_async
from flex_judge.judges.concurrency import gather_all
from flex_judge.judges.engines import MODEL_ENGINES, resolve_engine
from flex_judge.judges.engines.hardware import count_cpus
from flex_judge.judges.io.jsonl import Journal
from flex_judge.judges.models import identify_model
from flex_judge.judges.models.embedded import BASE, JUDGE
from flex_judge.judges.validation.classes import NonNegativeInt, PositiveFloat, PositiveInt, settings_class
from flex_judge.reward.serving.cluster import check_memory

RUBRIC = "correctness"
GIB_PER_ENGINE = {"vllm": 2.4, "transformers": 2.0, "scripted": 0.4}
"""Memory per engine in GiB: peak of a default run in float32, divided by its engines (policy and judge replicas)."""


@settings_class(kw_only=True)
class DemoConfig:
    """Settings of the demo."""

    out: str = setting("runs/demo", "Output folder; an existing run in it is resumed", metavar="DIR")
    prompts: PositiveInt = setting(24, "Number of arithmetic questions", metavar="N")
    samples: PositiveInt = setting(8, "Number of answers sampled per question", metavar="N")
    engine: str = setting(
        "auto", "Engine of the models; auto is vllm where installed", choices=("auto", *MODEL_ENGINES)
    )
    replicas: PositiveInt | None = setting(
        None, "Number of judge replicas (default: 2; 1 on a machine of fewer than 4 processors)", metavar="N"
    )
    seed: NonNegativeInt = setting(0, "Seed of questions, samples and random tie-breaks", metavar="N")
    address: str | None = setting(
        None, "Join the Ray cluster at this host:port, or auto, instead of starting one", metavar="HOST:PORT"
    )
    start_timeout_s: PositiveFloat = start_timeout_setting("")
    policy: str = setting(BASE, "Policy model: embedded name, folder or hub id", metavar="MODEL")
    judge: str = setting(JUDGE, "Judge model: embedded name, folder or hub id", metavar="MODEL")

    def build_identity(self) -> dict[str, Any]:
        """Build the settings that determine the results; a run folder holds the results of one identity."""
        return {
            "policy": identify_model(self.policy),
            "judge": identify_model(self.judge),
            "engine": resolve_engine(self.engine),
            "prompts": self.prompts,
            "samples": self.samples,
            "seed": self.seed,
        }

    @property
    def num_replicas(self) -> int:
        """Number of judge replicas; a second one on few processors would only make the start longer."""
        return self.replicas or (2 if self.address or count_cpus() >= 4 else 1)

    @property
    def data_flags(self) -> DataFlags:
        """Equivalent settings of a run over prompts; judging is greedy, so that repeated runs give the same scores."""
        return make_config(
            DataFlags,
            out=self.out,
            prompts=self.prompts,
            samples=self.samples,
            sample_temperature=arithmetic.SAMPLING.temperature,
            policy=self.policy,
            judge=self.judge,
            engine=self.engine,
            max_model_len=1024,
            max_think_tokens=128,
            max_answer_tokens=16,
            temperature=0.0,
            top_p=1.0,
            seed=self.seed,
            replicas=self.num_replicas,
            address=self.address,
            start_timeout_s=self.start_timeout_s,
        )


def main(config: DemoConfig) -> dict[str, Any]:
    """Start or resume the demo.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: Bad settings or too little memory; nothing was started.
    """
    identity = config.build_identity()
    source = arithmetic.ArithmeticSource(config.prompts, config.seed)
    rows = [
        parse_prompt_row(data, where, number, PromptColumns(number="answer"), source.folder)
        for number, (where, data) in enumerate(source.read_range(0, len(source)), 1)
    ]
    config.data_flags.check_models()
    with (
        RunFolder(Path(config.out), identity, kind="demo") as run,
        Journal(run.path / "completions.jsonl") as completions,
        Journal(run.path / "judgments.jsonl") as judgments,
    ):
        run.expect_rows(config.prompts * config.samples, "judgment")
        samples = SampleStore(identity["policy"], rows, config.samples, completions)
        stored = JudgmentStore(samples, judgments)
        # The tables are written only at the end, so that a killed demo has no partial one.
        best, preferences = run_async(_run_steps(config, run, rows, samples, stored))
        return write_results(run, best, preferences, samples, stored, config.num_replicas)


async def _run_steps(
    config: DemoConfig, run: RunFolder, rows: Sequence[PromptRow], samples: SampleStore, judgments: JudgmentStore
) -> tuple[list[RowResult], list[RowResult]]:
    """Run best-of-N and preferences; sample and judge only what is not stored yet.

    Returns:
        The results of best-of-N and of preferences, each in the order of the prompts.
    """
    with redirect_libraries(run.path / "engines.log") as console, Progress(console) as progress:
        if judgments.num_final == samples.total:
            console.print(f"{run.path} is complete: nothing is sampled or judged again", soft_wrap=True)
            return await _run_plans(config, rows, samples, judgments)
        engine = resolve_engine(config.engine)
        # On a joined cluster the engines run on other machines.
        local_engines = 0 if config.address else config.num_replicas + 1
        check_memory(estimate_memory_gib(engine, local_engines), f"a demo with {engine}")
        async with RunServices(config.data_flags, run, console, progress).start() as (policy, judge):
            policy_client, ask_judge = await ServedModels(policy, judge).open()
            with (
                progress.show_phase("sampling", samples.total, samples.num_stored) as sampling,
                progress.show_phase("judging", samples.total, judgments.num_final) as judging,
                run.time_phase("sample_and_judge"),
            ):
                samples.attach_policy(policy_client, sampling)
                judgments.attach_judge(ask_judge, judging)
                return await _run_plans(config, rows, samples, judgments)


async def _run_plans(
    config: DemoConfig, rows: Sequence[PromptRow], samples: SampleStore, judgments: JudgmentStore
) -> tuple[list[RowResult], list[RowResult]]:
    models = StoredModels(samples, judgments)
    sampling = replace(arithmetic.SAMPLING, seed=config.seed)
    selection = SelectionSpec(rubric=RUBRIC, seed=config.seed)
    best_of_n = await BestOfNPlan(models, sampling, config.samples, selection).open()
    preferences = await PreferencePlan(models, sampling, config.samples, RUBRIC).open()
    # Best-of-N first: it judges every sample, and preferences then find all judgments stored.
    best_results = await gather_all(best_of_n(row) for row in rows)
    return best_results, await gather_all(preferences(row) for row in rows)


def estimate_memory_gib(engine: str, engines: int) -> float:
    """Estimate the memory of engines with the embedded model, of Ray and of the driver, in GiB."""
    return engines * GIB_PER_ENGINE[engine] + 0.5
