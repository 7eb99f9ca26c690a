"""The judge: comparisons in, judgments out, side by side and in the order in which they are ready."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence, Sized
from contextlib import aclosing, contextmanager
from dataclasses import asdict, replace
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from flex_judge.judges.concurrency import EngineSemaphore, run_concurrently
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.base import Engine, EngineConfig
from flex_judge.judges.engines.recording.recording import RecordingEngine
from flex_judge.judges.errors import RenderError, UsageError
from flex_judge.judges.extras import require_extras
from flex_judge.judges.judgments import Judgment, Status
from flex_judge.judges.protocol.generation import ReplyGenerator
from flex_judge.judges.protocol.rendering import Renderer
from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
from flex_judge.judges.protocol.vote_loop import VoteLoop
from flex_judge.judges.protocol.voting import combine_votes
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import Comparison

T = TypeVar("T")
CONCURRENCY = 256
"""Comparisons that a judge has under way at a time."""


class FlexJudge:
    """Judges comparisons with one engine.

    Example:
        >>> judge = FlexJudge.from_pretrained("smollm2-135m", max_think_tokens=64)
        >>> judge.judge([Comparison.of("What is 2 + 3?", "It is 5.")])[0].scores
    """

    def __init__(self, engine: Engine, settings: JudgeSettings | None = None) -> None:
        self.engine = engine
        self.settings = settings or JudgeSettings()
        self.renderer = Renderer(engine.tokenizer, engine.profile)
        self._rubrics: dict[str, Rubric] = {}
        self._repliers: dict[tuple[str, int], ReplyGenerator] = {}
        self._semaphore: WeakKeyDictionary[asyncio.AbstractEventLoop, EngineSemaphore] = WeakKeyDictionary()
        self._told = _drop_unset_values(
            asdict(self.settings) | {"media": _drop_unset_values(asdict(self.settings.media))}
        )

    @classmethod
    def from_config(cls, config: JudgeConfig) -> FlexJudge:
        """Load a judge from its configuration.

        Raises:
            MissingExtraError: the extra `judge` is not installed.
        """
        require_extras("FlexJudge", "judge")
        return cls(load_engine(config.engine), config.settings)

    @classmethod
    def from_pretrained(
        cls,
        model: str,
        engine: str = "auto",
        adapter: str | None = None,
        max_model_len: int = 8192,
        ledger: str | None = None,
        **settings: Any,
    ) -> FlexJudge:
        """Load a judge.

        Args:
            model: name of an embedded model, a folder, or a hub id.
            engine: `vllm`, `transformers`, or `auto`.
            adapter: folder or hub id of a LoRA adapter on the model.
            max_model_len: longest prompt and reply together, in tokens.
            ledger: SQLite file that keeps what was generated; what it holds is not computed again.
            settings: the fields of JudgeSettings.

        Raises:
            MissingExtraError: the extra `judge` is not installed.
        """
        config = EngineConfig(model, engine, adapter=adapter, max_model_len=max_model_len, ledger=ledger)
        return cls.from_config(JudgeConfig(config, JudgeSettings(**settings)))

    def judge(self, comparisons: Iterable[Comparison], progress: bool = False) -> list[Judgment]:
        """Judge all comparisons; judgments come in the same order. For use outside of an event loop.

        Raises:
            UsageError: a comparison that cannot be judged as it is, see `ajudge`; raised when all others are judged.
            EngineLostError: the engine died. With a ledger, a second run goes on where this one ended.
        """
        found = dict(_iterate_in_new_loop(self._judge_concurrently(comparisons, CONCURRENCY), comparisons, progress))
        return [found[i] for i in range(len(found))]

    def stream(self, comparisons: Iterable[Comparison], progress: bool = False) -> Iterator[Judgment]:
        """Judge comparisons and yield judgments as they are ready. For use outside of an event loop.

        Judging goes on while the next judgment is waited for, not while the caller does other things; `deadline_s`
        runs on all the same. A caller who takes long over each judgment should use `astream`.

        Args:
            comparisons: taken as there is room for them, so an iterator may be endless.
            progress: show a progress bar on standard error.
        """
        for _, judgment in _iterate_in_new_loop(
            self._judge_concurrently(comparisons, CONCURRENCY), comparisons, progress
        ):
            yield judgment

    async def astream(
        self, comparisons: Iterable[Comparison], concurrency: int = CONCURRENCY
    ) -> AsyncGenerator[Judgment, None]:
        """Judge comparisons side by side, so many at a time; yields judgments as they are ready.

        A comparison that cannot be judged as it is does not hold up the others: its error is raised after them.
        """
        async with aclosing(self._judge_concurrently(comparisons, concurrency)) as numbered:
            async for _, judgment in numbered:
                yield judgment

    def _judge_concurrently(
        self, comparisons: Iterable[Comparison], concurrency: int
    ) -> AsyncGenerator[tuple[int, Judgment], None]:
        """Judgments as they are ready, with the numbers of their comparisons."""
        return run_concurrently(comparisons, self.ajudge, concurrency)

    async def ajudge(self, comparison: Comparison) -> Judgment:
        """Judge one comparison. Failures become a status, never a score.

        Raises:
            UsageError: the rubric does not exist, or is not made for this number of responses.
            MediaError: a medium that cannot be read, or that the model does not take.
            RenderError: the model's chat template cannot be followed.
            EngineLostError: the engine died; whoever owns it decides where to try again.
        """
        try:
            return await self._judge_comparison(comparison)
        except (UsageError, RenderError) as e:
            name = f"comparison {comparison.id!r}: " if comparison.id else ""
            raise type(e)(f"{name}{e}") from e

    async def warm_up(self, rubrics: Sequence[str] = ("general",)) -> None:
        """Judge something short under each rubric and forget it, so that the first comparison does not wait for what an
        engine does once: its first kernels, a rubric's grammar. The ledger, if there is one, neither answers nor grows.

        Args:
            rubrics: names or files; each is tried with as many responses as it is made for, up to two.

        Raises:
            UsageError: a rubric does not exist.
            EngineLostError: the engine died.
        """
        engine = self.engine.engine if isinstance(self.engine, RecordingEngine) else self.engine
        # A single token of thinking leads straight to an answer under the grammar.
        once = replace(self.settings, max_think_tokens=1, votes=1, order="as_given", num_waits=0, reason_first=True)
        short = FlexJudge(engine, replace(once, forced_answer=True, deadline_s=None))
        for name in rubrics:
            fewest, most = self._get_rubric(name).responses
            for count in sorted({fewest, max(fewest, min(2, most or 2))}):
                await short.ajudge(Comparison.of("What is 2 + 3?", *["5"] * count, rubric=name))

    def compute_key(self, comparison: Comparison) -> str:
        """Hash of everything that determines a judgment: comparison, rubric, settings, model and engine."""
        what = [comparison.digest, self._get_rubric(comparison.rubric), self.settings, self.engine.model_id]
        return hashlib.sha256(repr([*what, self.engine.name]).encode()).hexdigest()[:32]

    def close(self) -> None:
        self.engine.close()

    async def _judge_comparison(self, comparison: Comparison) -> Judgment:
        replier = self._get_reply_generator(comparison)
        vote_loop = VoteLoop(comparison, replier, self.renderer, self.settings)
        provenance = {
            "engine": self.engine.name,
            "rubric": comparison.rubric,
            "key": self.compute_key(comparison),
            "settings": self._told,
        }
        longest = await vote_loop.measure_longest_prompt()
        room = self.engine.max_model_len - longest
        if room < replier.max_reply_tokens:
            detail = (
                f"prompt of {longest} tokens leaves {room} of the {replier.max_reply_tokens} that a verdict may need"
            )
            detail += "; raise max_model_len, lower max_think_tokens" + ", or scale media down" * comparison.has_media
            return Judgment.from_failure(
                comparison.id, Status.OVERLONG, detail, model=self.engine.model_id, provenance=provenance
            )
        # The deadline of a comparison does not run while it waits for the engine to have room for its replies.
        semaphore = self._semaphore.setdefault(asyncio.get_running_loop(), EngineSemaphore(self.engine.max_batch))
        taken = await semaphore.acquire(vote_loop.first_wave_size)
        try:
            rounds = await vote_loop.collect_votes()
        finally:
            semaphore.release(taken)
        return combine_votes(
            comparison.id, rounds, usage=vote_loop.usage, model=self.engine.model_id, provenance=provenance
        )

    def _get_rubric(self, name: str) -> Rubric:
        if name not in self._rubrics:
            self._rubrics[name] = load_rubric(name)
        return self._rubrics[name]

    def _get_reply_generator(self, comparison: Comparison) -> ReplyGenerator:
        key = (comparison.rubric, len(comparison.responses))
        if key not in self._repliers:
            rubric = self._get_rubric(comparison.rubric)
            self._repliers[key] = ReplyGenerator(self.engine, self.renderer, self.settings, rubric, key[1])
        return self._repliers[key]


def _drop_unset_values(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, {})}


def _iterate_in_new_loop(source: AsyncGenerator[T, None], counted: Iterable[Comparison], progress: bool) -> Iterator[T]:
    """What an asynchronous generator yields, for a caller without an event loop."""

    async def next_item() -> T | None:
        return await anext(source, None)

    if _is_in_event_loop():
        raise UsageError("judge and stream are for use outside of an event loop; inside one, use ajudge and astream")
    with asyncio.Runner() as runner, _show_progress_bar(counted, progress) as advance:
        try:
            while (item := runner.run(next_item())) is not None:
                advance()
                yield item
        finally:
            runner.run(source.aclose())


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _show_progress_bar(comparisons: Iterable[Comparison], shown: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on standard error, or nothing; yields what advances it."""
    if not shown:
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    # On a terminal rich prints above the bar what is printed elsewhere, but standard output may go to a file.
    console, above = Console(stderr=True), sys.stdout.isatty()
    with Progress(*columns, console=console, redirect_stdout=above) as progress:
        task = progress.add_task("judging", total=len(comparisons) if isinstance(comparisons, Sized) else None)
        yield lambda: progress.advance(task)
