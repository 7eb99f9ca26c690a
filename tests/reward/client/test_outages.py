"""Outages of a judge service: cost of a call, end of a run, and error messages."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fake_service import FakeService, hang, impatient_client, make_client, make_sample, return_unscored

from flex_judge.judges import Comparison
from flex_judge.judges.errors import ServiceTimeoutError, ServiceUnavailableError
from flex_judge.judges.judgments import Status
from flex_judge.reward.client import JudgeClient


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as running:
        yield running


def test_a_hung_service_costs_one_deadline_and_then_ends_the_run(service: FakeService) -> None:
    client = make_client(service, deadline_s=0.2, probe_s=1)
    service.always = hang
    with pytest.raises(ServiceTimeoutError, match=r"no answer within 0\.2 s"):
        client.rewards_sync([make_sample("Question?", "four")])
    service.well = False
    with pytest.raises(ServiceUnavailableError) as caught:
        client.rewards_sync([make_sample("Question?", "four")])
    assert not isinstance(caught.value, ServiceTimeoutError)
    story = str(caught.value)
    assert "\n" not in story
    for part in (service.url, "2 calls", "GET /healthz: 503", "checkpoint", "since 20"):
        assert part in story


def test_a_service_that_hangs_although_healthy_ends_the_run(service: FakeService) -> None:
    client = make_client(service, deadline_s=0.2)
    service.always = hang
    with pytest.raises(ServiceTimeoutError):
        client.rewards_sync([make_sample("Question?", "four")])
    with pytest.raises(ServiceUnavailableError, match="2 calls"):
        client.rewards_sync([make_sample("Question?", "four")])
    assert service.probes == 1


def test_a_judgment_resets_the_circuit_breaker(service: FakeService) -> None:
    for _ in range(3):
        service.always = hang
        with pytest.raises(ServiceTimeoutError):
            impatient_client(service).rewards_sync([make_sample("Question?", "four")])
        service.always = None
        assert make_client(service).rewards_sync([make_sample("Question?", "four")])[0].value == 4
    assert service.probes == 3


def test_a_refused_connection_is_an_outage(service: FakeService) -> None:
    gone = replace(impatient_client(service), url="http://127.0.0.1:9")
    with pytest.raises(ServiceTimeoutError, match="ConnectError"):
        gone.rewards_sync([make_sample("Question?", "four")])
    with pytest.raises(ServiceUnavailableError, match="ConnectError"):
        gone.rewards_sync([make_sample("Question?", "four")])
    with pytest.raises(ServiceUnavailableError, match="check that the judge service runs"):
        gone.health_sync()


def test_concurrent_failed_calls_count_as_one_round(service: FakeService) -> None:
    client = make_client(service, deadline_s=1, probe_s=0.2)
    service.always = hang
    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(lambda i: _call_and_catch(client, str(i)), range(4)))
    assert [type(e) for e in errors] == [ServiceTimeoutError] * 4
    service.well = False
    with ThreadPoolExecutor(4) as pool:
        errors = list(pool.map(lambda i: _call_and_catch(client, str(i)), range(4)))
    assert [type(e) for e in errors] == [ServiceUnavailableError] * 4


def _call_and_catch(client: JudgeClient, text: str) -> Exception:
    with pytest.raises(ServiceUnavailableError) as caught:
        client.rewards_sync([make_sample(text, text)])
    return caught.value


def test_returns_finished_results_and_timeouts_for_the_others(service: FakeService) -> None:
    service.script.append(hang)
    client = make_client(service, chunk=1, deadline_s=2)
    rewards = client.rewards_sync([make_sample(f"{i}?", "four") for i in range(3)])
    assert sorted((r.value, r.status) for r in rewards if r.value) == [(4.0, Status.OK)] * 2
    (lost,) = (r for r in rewards if r.value is None)
    assert lost.status == Status.TIMEOUT
    assert "no answer" in lost.detail
    judgments = client.judge_sync([Comparison.of("Question?", "four")])
    assert judgments[0].status == Status.OK  # the circuit breaker is closed


def test_a_service_that_only_returns_failures_ends_the_run_after_several_calls(service: FakeService) -> None:
    client = make_client(service)
    service.always = return_unscored(Status.TIMEOUT)
    for _ in range(3):
        assert client.rewards_sync([make_sample("Question?", "four")])[0].status == Status.TIMEOUT
    with pytest.raises(ServiceUnavailableError, match=r"4 calls.*judges nothing \(status timeout\): not today"):
        client.rewards_sync([make_sample("Question?", "four")])
    service.always = return_unscored(Status.UNPARSEABLE)  # a failure, but a judgment
    for _ in range(5):
        assert client.rewards_sync([make_sample("Question?", "four")])[0].status == Status.UNPARSEABLE
