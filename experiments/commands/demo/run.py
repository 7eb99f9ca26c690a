"""`flex-judge demo`: best-of-n, preferences and report on the embedded model, with the same samples and judgments.

Both steps run the code of their commands on one policy, one judge service and one Ray cluster. An interrupted demo is
resumed: `completions.jsonl` and `judgments.jsonl` grow as work is done, and the other files are made from them at the
end.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import platform
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.best_of_n.selection import SelectionSpec
from flex_judge.alignment.data.prompts import Columns, prompt_row
from flex_judge.alignment.data.rows import PromptRow
from flex_judge.alignment.pipeline.best_of_n import BestOfNPlan
from flex_judge.alignment.pipeline.job import Outcome
from flex_judge.alignment.pipeline.preferences import PreferencePlan
from flex_judge.alignment.policies import EnginePolicy
from flex_judge.alignment.tasks import arithmetic
from flex_judge.experiments.commands.demo.results import write_results
from flex_judge.experiments.commands.demo.shared import Judgments, Samples, SharedModels
from flex_judge.experiments.common.console import libraries_to, progress_on
from flex_judge.experiments.common.flags import check_least, setting
from flex_judge.experiments.common.run_folder import RunFolder
from flex_judge.judges import EngineConfig, JudgeConfig, JudgeSettings
from flex_judge.judges.concurrency.tasks import all_of
from flex_judge.judges.engines import MODEL_ENGINES, load_engine, resolve_engine
from flex_judge.judges.errors import ModelNotFoundError
from flex_judge.judges.hardware import cuda_device_count
from flex_judge.judges.io.jsonl import Journal
from flex_judge.judges.models import check_model, identified
from flex_judge.judges.models.embedded import BASE, EMBEDDED, JUDGE
from flex_judge.reward.serving.cluster import Cluster, check_address, check_memory, connect
from flex_judge.reward.serving.service import JudgeService, ServiceConfig

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

RUBRIC = "correctness"
# The embedded judge thinks in a line or two; greedy, so that the same run gives the same scores.
SETTINGS = JudgeSettings(max_think_tokens=128, max_answer_tokens=16, temperature=0.0, top_p=1.0)
MAX_MODEL_LEN = 1024
GIB_PER_ENGINE = {"vllm": 2.4, "transformers": 2.0, "scripted": 0.4}
"""Measured on the embedded model in float32: the peak of a whole default run, over its policy and its replicas."""


@dataclass(frozen=True)
class DemoConfig:
    out: str = setting("runs/demo", "folder for the results; a run that is there is resumed", metavar="DIR")
    prompts: int = setting(24, "how many arithmetic questions", metavar="N")
    samples: int = setting(8, "answers sampled for each question", metavar="N")
    engine: str = setting(
        "auto", "what runs the models; auto is vllm where installed", choices=("auto", *MODEL_ENGINES)
    )
    replicas: int = setting(2, "judges that work side by side", metavar="N")
    seed: int = setting(0, "seed of questions, samples and ties", metavar="N")
    address: str | None = setting(
        None, "join the Ray cluster at this host:port (or auto) instead of starting one", metavar="HOST:PORT"
    )
    policy: str = setting(BASE, "model that answers: embedded name, folder or hub id", metavar="MODEL")
    judge: str = setting(JUDGE, "model that judges: embedded name, folder or hub id", metavar="MODEL")

    def __post_init__(self) -> None:
        check_least(self, {"prompts": 1, "samples": 1, "replicas": 1, "seed": 0})

    def identity(self) -> dict[str, Any]:
        """What determines the results; a run folder holds one such."""
        return {
            "policy": identified(self.policy),
            "judge": identified(self.judge),
            "engine": resolve_engine(self.engine),
            "prompts": self.prompts,
            "samples": self.samples,
            "seed": self.seed,
        }


def main(config: DemoConfig) -> dict[str, Any]:
    """Run the demo, or go on with it.

    Returns:
        The summary, as written to `summary.json`.

    Raises:
        UsageError: something the user can mend; nothing was started yet.
    """
    identity = config.identity()
    source = arithmetic.Questions(config.prompts, config.seed)
    rows = [
        prompt_row(data, where, number, Columns(number="answer"), source.folder)
        for number, (where, data) in enumerate(source.rows(0, len(source)), 1)
    ]
    for name in {config.policy, config.judge}:
        if identity["engine"] != "scripted":
            check_model(name)
    if config.address:
        check_address(config.address)
    with (
        RunFolder(Path(config.out), identity) as run,
        Journal(run.path / "completions.jsonl") as completions,
        Journal(run.path / "judgments.jsonl") as judgments,
    ):
        samples = Samples(identity["policy"], rows, config.samples, completions)
        stored = Judgments(samples, judgments)
        with libraries_to(run.path / "engines.log") as console, progress_on(console) as progress:
            demo = _Demo(config, identity["engine"], run, rows, samples, stored, console, progress)
            best, preferences = asyncio.run(demo.run())
        return write_results(run, best, preferences, samples, stored, config.replicas)


@dataclass(frozen=True)
class _Demo:
    """The phases that need models, sampling and judging, and the two steps that choose among the samples."""

    config: DemoConfig
    engine: str
    run_folder: RunFolder
    rows: Sequence[PromptRow]
    samples: Samples
    judgments: Judgments
    console: Console
    progress: Progress

    async def run(self) -> tuple[list[Outcome], list[Outcome]]:
        """Sample and judge what is missing.

        Returns:
            The outcomes of best-of-n and of preferences, in the order of the prompts.
        """
        if self.judgments.done == self.samples.total:
            self.console.print(
                f"{self.run_folder.path} is complete: nothing is sampled or judged again", soft_wrap=True
            )
            return await self._choose()
        self._check_memory()
        # Converting the model, starting Ray and loading the judges all take a while and run side by side.
        models = asyncio.create_task(self._prepare_models())
        async with _finished_or_cancelled(models), self._service() as service:
            await models
            if self.samples.missing:
                await self._sample()
            with self._step("judges starting", "start_judges"):
                await service.ready()
            with self._step("judging", "judge", self.samples.total, self.judgments.done) as advance:
                self.judgments.connect(service.judge, advance)
                return await self._choose()

    async def _choose(self) -> tuple[list[Outcome], list[Outcome]]:
        """Run best-of-n and preferences on the shared samples and judgments."""
        config, models = self.config, SharedModels(self.samples, self.judgments)
        selection = SelectionSpec(rubric=RUBRIC, seed=config.seed)
        best_of_n = await BestOfNPlan(models, arithmetic.SAMPLING, config.samples, selection).open()
        preferences = await PreferencePlan(models, arithmetic.SAMPLING, config.samples, RUBRIC).open()
        best = await all_of(best_of_n(row) for row in self.rows)
        return best, await all_of(preferences(row) for row in self.rows)

    async def _prepare_models(self) -> None:
        names = {self.config.policy, self.config.judge} if self.engine != "scripted" else set()
        names = {name for name in names if not (name in EMBEDDED and EMBEDDED[name].is_converted)}
        if not names:
            return
        with self._step("preparing models", "prepare_models"):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "flex_judge.judges.models", *sorted(names), stderr=asyncio.subprocess.PIPE
            )
            try:
                _, error = await process.communicate()
            finally:
                if process.returncode is None:
                    process.kill()
            if process.returncode:
                lines = error.decode(errors="replace").strip().splitlines() or ["no reason given"]
                raise ModelNotFoundError(lines[-1])

    @contextlib.asynccontextmanager
    async def _service(self) -> AsyncIterator[JudgeService]:
        with contextlib.ExitStack() as stack:
            with self._step("starting Ray", "start_ray"):
                cluster = stack.enter_context(connect(self.config.address))
                # Who holds the folder's lock is alone with the service's name.
                service = JudgeService(self._service_config(cluster), private=True)
                await service.__aenter__()
            try:
                yield service
            finally:
                with self._step("stopping Ray" if cluster.local else "leaving Ray", "stop_ray"):
                    await service.__aexit__()

    def _service_config(self, cluster: Cluster) -> ServiceConfig:
        engine = self._engine_config(self.config.judge, cluster.gpus)
        # The service divides a GPU among its replicas itself.
        share = engine.gpu_memory_utilization * max(1.0, self.config.replicas / max(1.0, cluster.gpus))
        judge = JudgeConfig(replace(engine, gpu_memory_utilization=share), SETTINGS)
        # Of this folder only: on a shared cluster, others may run a demo too.
        folder = f"{platform.node()}:{self.run_folder.path.resolve()}"
        name = f"flex-judge-demo-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"
        return ServiceConfig(judge, self.config.replicas, name=name).placed_on(cluster)

    def _engine_config(self, model: str, gpus: float) -> EngineConfig:
        # With GPUs, the policy and some replicas may have to share one.
        sharing = 1 + -(-self.config.replicas // max(1, int(gpus)))
        return EngineConfig(
            model,
            self.engine,
            max_model_len=MAX_MODEL_LEN,
            seed=self.config.seed,
            gpu_memory_utilization=round(0.85 / sharing, 3),
        )

    async def _sample(self) -> None:
        with self._step("policy loading", "load_policy"):
            config = self._engine_config(self.config.policy, cuda_device_count())
            policy = EnginePolicy(await _in_thread(lambda: load_engine(config)))
        missing = self.samples.missing
        try:
            with self._step("sampling", "sample", self.samples.total, self.samples.total - len(missing)) as advance:
                await all_of(self._sample_answer(policy, row, k, advance) for row, k in missing)
        finally:
            await _in_thread(policy.close)

    async def _sample_answer(
        self, policy: EnginePolicy, row: PromptRow, sample: int, advance: Callable[[], None]
    ) -> None:
        """Sample one answer and store it at once. The samples of a prompt share its prefill all the same."""
        sampling = replace(arithmetic.SAMPLING, seed=self.config.seed)
        (completion,) = await policy.sample(row.prompt, sampling, [sample])
        self.samples.store(row.id, sample, completion)
        advance()

    def _check_memory(self) -> None:
        replicas = 0 if self.config.address else self.config.replicas
        engines = replicas + bool(self.samples.missing)
        check_memory(memory_gib(self.engine, engines), f"a demo with {self.engine}")

    @contextlib.contextmanager
    def _step(self, title: str, phase: str, total: int | None = None, done: int = 0) -> Iterator[Callable[[], None]]:
        """A progress bar and a clock around one phase; yields what advances the bar."""
        task = self.progress.add_task(title, total=total, completed=done)
        with self.run_folder.phase(phase):
            yield lambda: self.progress.advance(task)
        if total is None:
            self.progress.update(task, total=1, completed=1)
        self.progress.stop_task(task)


def memory_gib(engine: str, engines: int) -> float:
    """What so many engines with the embedded model need on this machine, with Ray and the driver around them."""
    return engines * GIB_PER_ENGINE[engine] + 0.5


@contextlib.asynccontextmanager
async def _finished_or_cancelled(task: asyncio.Task[None]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _in_thread(work: Callable[[], Any]) -> Any:
    """Run blocking work in a daemon thread, so that Ctrl-C need not wait for it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(result)

    def target() -> None:
        try:
            result, error = work(), None
        except BaseException as e:  # noqa: BLE001 - handed over to the awaiting task, whatever it is
            result, error = None, e
        with contextlib.suppress(RuntimeError):  # the loop may be gone by then
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=target, daemon=True).start()
    return await future
