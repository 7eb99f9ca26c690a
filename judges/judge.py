"""The judge: runs comparisons through one engine, concurrently, and returns judgments."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence, Sized
from contextlib import aclosing
from dataclasses import asdict, fields, replace
from typing import Any
from weakref import WeakKeyDictionary

from flex_judge.judges.concurrency import EngineSemaphore, iterate_in_new_loop, run_concurrently
from flex_judge.judges.engines import load_engine
from flex_judge.judges.engines.adapters import AdapterMethods
from flex_judge.judges.engines.base import Engine, EngineConfig, find_server
from flex_judge.judges.engines.recording.recording import RecordingEngine
from flex_judge.judges.engines.sleep import SleepMethods, hold_awake
from flex_judge.judges.errors import GenerationError, LedgerError, RenderError, UsageError, is_input_error, to_one_line
from flex_judge.judges.extras import require_extras
from flex_judge.judges.judgments import RESPONSE_PROBLEMS, Judgment, Status
from flex_judge.judges.protocol.generation import ReplyGenerator
from flex_judge.judges.protocol.input_faults import find_input_fault
from flex_judge.judges.protocol.rendering import Renderer
from flex_judge.judges.protocol.settings import JudgeConfig, JudgeSettings
from flex_judge.judges.protocol.vote_loop import VoteLoop
from flex_judge.judges.protocol.voting import combine_votes
from flex_judge.judges.rubrics import load_rubric
from flex_judge.judges.rubrics.rubric import Rubric
from flex_judge.judges.types import Comparison

CONCURRENCY = 256
"""Default number of comparisons in progress. The engine's batch size limits the requests, see `EngineSemaphore`."""


class FlexJudge(AdapterMethods, SleepMethods):
    """Scores comparisons with a judge model on one engine.

    Args:
        engine: engine with the judge model, for example from `load_engine`.
        settings: how the judge thinks, answers and votes.

    Example:
        >>> judge = FlexJudge.from_pretrained("smollm2-135m", max_think_tokens=64)
        >>> judge.judge([Comparison.of("What is 2 + 3?", "It is 5.")])[0].scores
    """

    settings: JudgeSettings

    def __init__(self, engine: Engine, settings: JudgeSettings | None = None) -> None:
        super().__init__(engine, settings or JudgeSettings())
        self.renderer = Renderer(engine.tokenizer, engine.profile)
        self._max_characters = engine.max_model_len * self.renderer.max_token_length
        self._rubrics: dict[str, Rubric] = {}
        self._reply_generators: dict[tuple[str, int], ReplyGenerator] = {}
        # asyncio primitives belong to one event loop, and each call of `judge` or `stream` runs its own loop.
        self._semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, EngineSemaphore] = WeakKeyDictionary()
        # Every stored judgment repeats the settings, so unset ones are left out.
        media = _drop_unset_values(asdict(self.settings.media))
        self._recorded_settings = _drop_unset_values(asdict(self.settings) | {"media": media})

    @classmethod
    def from_config(cls, config: JudgeConfig) -> FlexJudge:
        """Load a judge from its configuration.

        Raises:
            MissingExtraError: the extra `judge` is not installed, or `remote` for a model at an address.
        """
        require_extras("FlexJudge", "remote" if config.engine.is_remote else "judge")
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
            model: name of an embedded model, a folder, a hub id, or `URL#NAME` of a model that your own server runs.
            engine: `vllm`, `transformers`, `remote` (for a URL), or `auto`.
            adapter: folder or hub id of a LoRA adapter for the model.
            max_model_len: maximum length of prompt and reply together, in tokens.
            ledger: SQLite file that records generations; recorded generations are not computed again.
            **settings: fields of `JudgeSettings` and further ones of `EngineConfig`, such as `max_adapter_rank`.

        Raises:
            MissingExtraError: the extra `judge` is not installed, or `remote` for a model at an address.
        """
        names = {f.name for f in fields(EngineConfig)} - {f.name for f in fields(JudgeSettings)}
        more = {name: settings.pop(name) for name in names & settings.keys()}
        config = EngineConfig(model, engine, adapter=adapter, max_model_len=max_model_len, ledger=ledger, **more)
        return cls.from_config(JudgeConfig(config, JudgeSettings(**settings)))

    def judge(self, comparisons: Iterable[Comparison], progress: bool = False) -> list[Judgment]:
        """Judge all comparisons and return judgments in the same order. For use outside of an event loop.

        A comparison that cannot be judged has the status `invalid_input`, see `ajudge`.

        Args:
            comparisons: comparisons to judge.
            progress: show a progress bar on standard error.

        Raises:
            UsageError: a comparison does not fit its rubric, see `ajudge`; raised after all others are judged.
            EngineLostError: the engine died. With a ledger, a second run resumes where this one stopped.
        """
        source = self._judge_concurrently(comparisons, CONCURRENCY)
        judgments = dict(iterate_in_new_loop(source, _count(comparisons), progress))
        return [judgments[index] for index in range(len(judgments))]

    def stream(self, comparisons: Iterable[Comparison], progress: bool = False) -> Iterator[Judgment]:
        """Judge comparisons and yield judgments as they complete. For use outside of an event loop.

        Judging progresses only while the caller waits for the next judgment, but `deadline_s` keeps running. A caller
        that works for a long time between judgments should use `astream`.

        Args:
            comparisons: comparisons to judge, consumed as fast as they are judged; the iterable may be endless.
            progress: show a progress bar on standard error.

        Yields:
            Judgments in the order of completion.
        """
        numbered = self._judge_concurrently(comparisons, CONCURRENCY)
        yield from (judgment for _, judgment in iterate_in_new_loop(numbered, _count(comparisons), progress))

    async def astream(
        self, comparisons: Iterable[Comparison], concurrency: int = CONCURRENCY
    ) -> AsyncGenerator[Judgment, None]:
        """Judge comparisons concurrently and yield judgments as they complete.

        A comparison whose rubric does not exist does not stop the others: its error is raised after them.

        Args:
            comparisons: comparisons to judge, consumed as fast as they are judged; the iterable may be endless.
            concurrency: maximum number of comparisons in progress.

        Yields:
            Judgments in the order of completion.
        """
        async with aclosing(self._judge_concurrently(comparisons, concurrency)) as numbered:
            async for _, judgment in numbered:
                yield judgment

    def _judge_concurrently(
        self, comparisons: Iterable[Comparison], concurrency: int
    ) -> AsyncGenerator[tuple[int, Judgment], None]:
        """Judge comparisons and yield judgments as they complete, each with the index of its comparison."""
        return run_concurrently(comparisons, self.ajudge, concurrency)

    async def ajudge(self, comparison: Comparison) -> Judgment:
        """Judge one comparison. A failure becomes a status, never a score.

        A comparison that cannot be judged because of its content has the status `invalid_input`: a medium that cannot
        be read, that the model does not support or is too elongated for it, a role that is a control token. The detail
        names the part, and `Judgment.response_problems` the responses at fault.

        Raises:
            UsageError: the rubric does not exist, or does not support this number of responses.
            RenderError: the model's chat template cannot be used.
            EngineLostError: the engine died; the owner of the engine decides where to retry.
            EngineAsleepError: the engine sleeps, see `sleep`.
        """
        try:
            with hold_awake(self.engine):
                return await self._judge_comparison(comparison)
        except GenerationError as e:
            return self._make_failure(comparison, Status.FAILED, to_one_line(e), {})
        except LedgerError:  # it concerns every comparison
            raise
        except (UsageError, RenderError) as e:
            name = f"comparison {comparison.id!r}: " if comparison.id else ""
            raise type(e)(f"{name}{e}") from e

    async def warm_up(self, rubrics: Sequence[str] = ("general",)) -> None:
        """Judge a short comparison with each rubric and discard the result.

        This triggers the one-time work of an engine (kernel compilation, grammar of a rubric), so that the first real
        comparison does not wait for it. The ledger, if there is one, is neither read nor written.

        Args:
            rubrics: names or files of rubrics; each is tried with one and two responses, as far as it supports them.

        Raises:
            UsageError: a rubric does not exist, or the context is too short for any comparison.
            EngineLostError: the engine died.
            GenerationError: the engine failed to judge the comparison, so it would fail for others too.
        """
        engine = self.engine.engine if isinstance(self.engine, RecordingEngine) else self.engine
        # A thinking budget of one token leads directly to a forced answer, which compiles the grammar.
        once = replace(self.settings, max_think_tokens=1, votes=1, order="as_given", num_waits=0, reason_first=True)
        short = FlexJudge(engine, replace(once, deadline_s=None))
        for name in rubrics:
            fewest, most = self._get_rubric(name).responses
            for count in sorted({fewest, max(fewest, min(2, most or 2))}):
                judgment = await short.ajudge(Comparison.of("What is 2 + 3?", *["5"] * count, rubric=name))
                if judgment.status == Status.OVERLONG:
                    raise UsageError(f"max_model_len {engine.max_model_len} is too short for any comparison; raise it")
                if judgment.status in (Status.FAILED, Status.INVALID_INPUT):
                    raise GenerationError(f"the engine cannot judge a first, plain comparison: {judgment.detail}")

    def compute_key(self, comparison: Comparison) -> str:
        """Hash everything that determines a judgment: comparison, rubric, settings, model and engine.

        Returns:
            32 hex digits. Stored judgments hold this key, so changes to the hashed representation invalidate them.
        """
        rubric = self._get_rubric(comparison.rubric)
        determinants = [comparison.digest, rubric, self.settings, self.engine.model_id, self.engine.name]
        return hashlib.sha256(repr(determinants).encode()).hexdigest()[:32]

    def close(self) -> None:
        """Close the engine and free its memory."""
        self.engine.close()

    async def _judge_comparison(self, comparison: Comparison) -> Judgment:
        reply_generator = self._get_reply_generator(comparison)
        vote_loop = VoteLoop(comparison, reply_generator, self.renderer, self.settings)
        provenance = {
            "engine": self.engine.name,
            **({"server": server} if (server := find_server(self.engine)) else {}),
            "rubric": comparison.rubric,
            "key": self.compute_key(comparison),
            "settings": self._recorded_settings,
        }
        try:
            return await self._collect_votes(vote_loop, provenance)
        except Exception as e:
            if not is_input_error(e):
                raise
            fault = await find_input_fault(e, comparison, vote_loop.render_comparison)
            if fault is None:
                raise
            if fault.response_problems:
                provenance[RESPONSE_PROBLEMS] = list(fault.response_problems)
            return self._make_failure(comparison, Status.INVALID_INPUT, fault.detail, provenance)

    async def _collect_votes(self, vote_loop: VoteLoop, provenance: dict[str, Any]) -> Judgment:
        comparison, reply_generator = vote_loop.comparison, vote_loop.reply_generator
        # Checked before anything is tokenized: a text of 30 MB would take minutes and gigabytes.
        if comparison.text_length > self._max_characters:
            detail = (
                f"texts of {comparison.text_length} characters cannot fit into the context of "
                f"{self.engine.max_model_len} tokens; shorten them, or raise max_model_len"
            )
            return self._make_failure(comparison, Status.OVERLONG, detail, provenance)
        prompt_tokens = await vote_loop.measure_longest_prompt()
        provenance |= vote_loop.describe_media()
        remaining, required = self.engine.max_model_len - prompt_tokens, reply_generator.max_reply_tokens
        if remaining < required:
            detail = (
                f"prompt of {prompt_tokens} tokens leaves {remaining} of the {required} that a verdict may need; "
                "raise max_model_len, lower max_think_tokens" + ", or scale media down" * comparison.has_media
            )
            return self._make_failure(comparison, Status.OVERLONG, detail, provenance)
        # The deadline starts only once the engine has room: time in the queue does not count against the comparison.
        semaphore = self._semaphores.setdefault(asyncio.get_running_loop(), EngineSemaphore(self.engine.max_batch))
        slots = await semaphore.acquire(vote_loop.first_wave_size)
        try:
            rounds = await vote_loop.collect_votes()
        finally:
            semaphore.release(slots)
        return combine_votes(
            comparison.id, rounds, usage=vote_loop.usage, model=self.engine.model_id, provenance=provenance
        )

    def _make_failure(self, comparison: Comparison, status: Status, detail: str, provenance: Any) -> Judgment:
        return Judgment.from_failure(comparison.id, status, detail, model=self.engine.model_id, provenance=provenance)

    def _get_rubric(self, name: str) -> Rubric:
        # Loaded once, so that editing a rubric file cannot change the criteria in the middle of a run.
        if name not in self._rubrics:
            self._rubrics[name] = load_rubric(name)
        return self._rubrics[name]

    def _get_reply_generator(self, comparison: Comparison) -> ReplyGenerator:
        key = (comparison.rubric, len(comparison.responses))
        if key not in self._reply_generators:
            rubric = self._get_rubric(comparison.rubric)
            rubric.check_response_count(len(comparison.responses))
            self._reply_generators[key] = ReplyGenerator(
                self.engine, self.renderer, self.settings, rubric=rubric, responses=len(comparison.responses)
            )
        return self._reply_generators[key]


def _drop_unset_values(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, {})}


def _count(comparisons: Iterable[Comparison]) -> int | None:
    return len(comparisons) if isinstance(comparisons, Sized) else None
