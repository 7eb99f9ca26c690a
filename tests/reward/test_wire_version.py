"""Versions of the wire format: clients and services of another major version refuse each other with clear errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from scripts import SETTINGS
from served import Served, served

import flex_judge
from flex_judge.judges import Comparison, FlexJudge
from flex_judge.judges.engines.recording.ledger import SCHEMA
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import IncompatibleVersionError
from flex_judge.reward.client import JudgeClient, transport
from flex_judge.reward.wire import WIRE_HEADER, WIRE_VERSION, check_client_version

PAIR = Comparison.of("Which?", "first", "second")
MAJOR = int(WIRE_VERSION.partition(".")[0])


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    from scripts import fair_judge

    async def script(prompt: str, sampling: Any) -> str:
        return fair_judge(prompt, sampling)

    with served(FlexJudge(ScriptedEngine(script), SETTINGS)) as service:
        yield service.url


class _OtherService:
    """Service of another version: it answers every request in a form that this client does not know."""

    def __init__(self, version: str | None) -> None:
        self._headers = [] if version is None else [(WIRE_HEADER.lower().encode(), version.encode())]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while True:
                message = await receive()
                await send({"type": f"{message['type']}.complete"})
                if message["type"] == "lifespan.shutdown":
                    return
        headers = [(b"content-type", b"application/json"), *self._headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"version": "9.0.0"}'})


@pytest.fixture
def other_service(request: pytest.FixtureRequest) -> Iterator[str]:
    service = Served(lambda: _OtherService(request.param))
    service.start()
    yield service.url
    service.stop()


def test_client_and_service_of_this_version_work_together(url: str) -> None:
    client = JudgeClient(url)
    assert client.judge_sync([PAIR])[0].scores is not None
    assert client.version_sync() == {
        "version": flex_judge.__version__,
        "wire_version": WIRE_VERSION,
        "ledger_format": SCHEMA,
    }
    assert httpx.get(f"{url}/healthz").headers[WIRE_HEADER] == WIRE_VERSION


@pytest.mark.parametrize("version", [None, str(MAJOR), f"{MAJOR}.0", f"{MAJOR}.99"])
def test_service_accepts_clients_without_a_version_or_of_another_minor_version(url: str, version: str | None) -> None:
    headers = {} if version is None else {WIRE_HEADER: version}
    assert httpx.get(f"{url}/version", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        (f"{MAJOR + 1}.0", "upgrade flex-judge in the service"),
        (f"{MAJOR - 1}.3", "upgrade flex-judge in the client"),
        ("newest", "the client must send"),
        ("", "the client must send"),
        ("1" * 5000, "the client must send"),
    ],
)
def test_service_refuses_clients_of_another_major_version(url: str, version: str, advice: str) -> None:
    answer = httpx.post(f"{url}/v1/judge", json={"comparisons": []}, headers={WIRE_HEADER: version})
    assert answer.status_code == 400
    body = answer.json()
    assert body["wire_version"] == WIRE_VERSION
    assert advice in body["error"]
    assert f"this service {WIRE_VERSION} (flex-judge {flex_judge.__version__})" in body["error"]
    assert len(body["error"]) < 300
    assert httpx.get(f"{url}/healthz", headers={WIRE_HEADER: version}).status_code == 200  # probes always work


def test_client_reports_the_refusal_of_the_service(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "WIRE_VERSION", f"{MAJOR + 1}.0")  # the version that a newer client sends
    client = JudgeClient(url, concurrency=3)  # settings of its own, so that it opens a new connection
    with pytest.raises(IncompatibleVersionError, match=rf"^{url}: the client uses wire version .*upgrade .* service"):
        client.judge_sync([PAIR])


@pytest.mark.parametrize(
    ("other_service", "advice"),
    [(f"{MAJOR + 1}.0", "upgrade flex-judge in the client"), (f"{MAJOR - 1}.0", "upgrade flex-judge in the service")],
    indirect=["other_service"],
)
def test_client_refuses_services_of_another_major_version(other_service: str, advice: str) -> None:
    for call in (lambda c: c.judge_sync([PAIR]), lambda c: c.version_sync()):
        with pytest.raises(IncompatibleVersionError, match=advice):
            call(JudgeClient(other_service))


@pytest.mark.parametrize("other_service", [None], indirect=True)
def test_client_accepts_services_without_a_version(other_service: str) -> None:
    assert JudgeClient(other_service).version_sync() == {"version": "9.0.0"}


def test_the_error_concerns_the_setup_and_not_a_row() -> None:
    with pytest.raises(IncompatibleVersionError) as e:
        check_client_version("99")
    from flex_judge.judges.errors import is_input_error

    assert not is_input_error(e.value)
