"""Streams of judgments: consumption of comparisons, order of results, cancellation and progress."""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest

from flex_judge.judges import Comparison, FlexJudge, JudgeSettings, UsageError
from flex_judge.judges.engines import Sampling
from flex_judge.judges.engines.scripted import ScriptedEngine

SETTINGS = JudgeSettings(max_think_tokens=100, max_answer_tokens=60)


class TimedJudge:
    """Numbered comparisons, and a judge that needs as many milliseconds for each as its response says."""

    def __init__(self, *milliseconds: int) -> None:
        self.milliseconds = milliseconds
        self.taken = 0
        self.at_once = self.most_at_once = 0
        self.given_up = 0
        self.engine = ScriptedEngine(self._script)
        self.judge = FlexJudge(self.engine, SETTINGS)

    def make_comparisons(self) -> Iterator[Comparison]:
        """Yield comparisons without end; the last time is repeated."""
        times = itertools.chain(self.milliseconds, itertools.repeat(self.milliseconds[-1]))
        for number, milliseconds in enumerate(times):
            self.taken += 1
            yield Comparison.of("How long?", f"{milliseconds}", id=str(number))

    async def _script(self, prompt: str, sampling: Sampling) -> str:
        if sampling.stop != ("</think>",):
            return "<answer>7</answer>"
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(int(prompt.rpartition("Answer]\n")[2].partition("<")[0]) / 1000)
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        finally:
            self.at_once -= 1
        return "Hm.</think>"


def test_stream_yields_judgments_as_they_complete() -> None:
    timed = TimedJudge(400, 10, 200)
    judgments = timed.judge.stream(itertools.islice(timed.make_comparisons(), 3))
    assert [j.id for j in judgments] == ["1", "2", "0"]


def test_stream_reads_an_endless_iterator_only_as_far_as_needed() -> None:
    timed = TimedJudge(5)
    stream = timed.judge.stream(timed.make_comparisons())
    ids = []
    for judgment in stream:
        ids.append(judgment.id)
        if len(ids) == 20:
            break
    stream.close()  # type: ignore[attr-defined]
    assert len(set(ids)) == 20
    assert timed.taken <= 20 + 256
    assert timed.at_once == 0


def test_abandoned_stream_cancels_its_work(recwarn: pytest.WarningsRecorder) -> None:
    timed = TimedJudge(1, 60_000)
    for _ in timed.judge.stream(itertools.islice(timed.make_comparisons(), 4)):
        break
    gc.collect()
    assert (timed.given_up, timed.at_once) == (3, 0)
    assert not recwarn.list


def test_two_streams_of_one_judge_can_be_read_in_turn() -> None:
    timed = TimedJudge(1)
    one, two = (timed.judge.stream(itertools.islice(timed.make_comparisons(), 5)) for _ in range(2))
    assert len(list(zip(one, two, strict=True))) == 5


async def test_async_stream_respects_its_concurrency_limit() -> None:
    timed = TimedJudge(3, 1, 2)
    async with aclosing(timed.judge.astream(timed.make_comparisons(), concurrency=3)) as stream:
        async for judgment in stream:
            if int(judgment.id) > 20:
                break
    assert timed.most_at_once == 3
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_async_stream_takes_the_next_comparison_only_when_one_is_done() -> None:
    timed = TimedJudge(1, 60_000)
    async with aclosing(timed.judge.astream(timed.make_comparisons(), concurrency=2)) as stream:
        assert (await anext(stream)).id == "0"
        assert timed.taken == 2
    assert timed.given_up == 1


@pytest.mark.parametrize("concurrency", [0, -1])
async def test_zero_concurrency_is_a_usage_error(concurrency: int) -> None:
    with pytest.raises(UsageError, match="concurrency must be at least 1"):
        await anext(aiter(TimedJudge(1).judge.astream([Comparison.of("q", "a")], concurrency)))


async def test_sync_methods_inside_an_event_loop_name_the_async_ones() -> None:
    judge = TimedJudge(1).judge
    with pytest.raises(UsageError, match="ajudge and astream"):
        judge.judge([Comparison.of("q", "1")])
    with pytest.raises(UsageError, match="ajudge and astream"):
        next(iter(judge.stream([Comparison.of("q", "1")])))


def test_usage_error_is_raised_after_the_other_comparisons() -> None:
    timed = TimedJudge(1)
    invalid = Comparison.of("q", "a", rubric="nice", id="wrong")
    stream = timed.judge.stream([invalid, *itertools.islice(timed.make_comparisons(), 3)])
    assert sorted(next(stream).id for _ in range(3)) == ["0", "1", "2"]
    with pytest.raises(UsageError, match="'wrong'"):
        next(stream)


def test_failing_iterator_cancels_running_work() -> None:
    timed = TimedJudge(1, 60_000)

    def iterate_then_fail() -> Iterator[Comparison]:
        yield from itertools.islice(timed.make_comparisons(), 256)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        timed.judge.judge(iterate_then_fail())
    assert (timed.given_up, timed.at_once) == (255, 0)


def test_keyboard_interrupt_ends_a_run_at_once() -> None:
    interrupted = []

    async def script(_: str, __: Sampling) -> str:
        signal.raise_signal(signal.SIGINT)
        try:
            await asyncio.sleep(60)
        finally:
            interrupted.append(True)
        return ""

    with pytest.raises(KeyboardInterrupt):
        FlexJudge(ScriptedEngine(script), SETTINGS).judge([Comparison.of("q", "a")])
    assert interrupted == [True]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_goes_to_standard_error_only(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich treat standard error as a terminal
    timed = TimedJudge(1)
    judge = timed.judge
    assert len(judge.judge(list(itertools.islice(timed.make_comparisons(), 3)), progress=True)) == 3
    for judgment in judge.stream(itertools.islice(timed.make_comparisons(), 2), progress=True):
        print("judged", judgment.id)
        sys.stdout.flush()
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == ["judged 0", "judged 1"]
    assert "3/3" in err
    assert "2/?" in err


def test_without_progress_nothing_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    timed = TimedJudge(1)
    timed.judge.judge(itertools.islice(timed.make_comparisons(), 3))
    assert capsys.readouterr() == ("", "")


async def test_one_judge_serves_concurrent_calls() -> None:
    timed = TimedJudge(5, 3, 1)
    judgments = await asyncio.gather(*map(timed.judge.ajudge, itertools.islice(timed.make_comparisons(), 3)))
    assert [j.id for j in judgments] == ["0", "1", "2"]
    assert timed.most_at_once == 3


async def test_consumer_that_breaks_out_without_closing_leaves_no_error(recwarn: pytest.WarningsRecorder) -> None:
    timed = TimedJudge(1, 60_000)

    async def take_first(stream: AsyncIterator[object]) -> object:
        async for judgment in stream:
            return judgment
        return None

    assert await take_first(timed.judge.astream(timed.make_comparisons(), concurrency=2))
    gc.collect()
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0.01)
    assert (timed.given_up, timed.at_once) == (1, 0)
    assert not recwarn.list
