"""Routes that describe a service, and the page of the HTTP API."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from scripts import SETTINGS, fair_judge
from served import served
from web import HeldJudge, client

import flex_judge
from flex_judge.judges import EngineConfig, FlexJudge
from flex_judge.judges.engines.recording.ledger import SCHEMA
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import AccessError, ServiceUnavailableError
from flex_judge.judges.rubrics import list_rubrics
from flex_judge.reward.client import JudgeClient
from flex_judge.reward.server.gateway import GatewayConfig
from flex_judge.reward.serving.ingress import name_model
from flex_judge.reward.wire import WIRE_VERSION

KEY = "correct-horse-battery-staple"
RUBRIC = 'criteria = "brevity"\nscale = "1-5"\nresponses = 1\n'
PATHS = ("/v1/models", "/v1/rubrics", "/version", "/metrics", "/docs")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[str]:
    file = tmp_path / "brevity.toml"
    file.write_text(RUBRIC)
    judge = FlexJudge(ScriptedEngine(fair_judge), SETTINGS)
    with served(judge, GatewayConfig(api_key=KEY, rubrics=(str(file),))) as service:
        yield service.url


def test_client_reads_what_a_service_says_about_itself(service: str, tmp_path: Path) -> None:
    client = JudgeClient(service, api_key=KEY)
    assert client.version_sync() == {
        "version": flex_judge.__version__,
        "wire_version": WIRE_VERSION,
        "ledger_format": SCHEMA,
    }
    assert client.models_sync() == ["unknown"]  # only the service on Ray knows its model
    rubrics = {rubric["name"]: rubric for rubric in client.rubrics_sync()}
    assert list(rubrics) == sorted({*list_rubrics(), "brevity"})
    expected = {"name": "brevity", "kind": "scores", "scale": "1-5", "min_responses": 1, "max_responses": 1}
    assert {k: v for k, v in rubrics["brevity"].items() if k != "digest"} == expected
    assert rubrics["vl_rewardbench"]["kind"] in ("scores", "options")
    assert len({rubric["digest"] for rubric in rubrics.values()}) == len(rubrics)
    assert str(tmp_path) not in str(rubrics)


async def test_client_methods_are_asynchronous_too(service: str) -> None:
    client = JudgeClient(service, api_key=KEY)
    assert (await client.version())["version"] == flex_judge.__version__
    assert await client.models() == ["unknown"]
    assert len(await client.rubrics()) == len(list_rubrics()) + 1


def test_client_errors_name_the_problem(service: str) -> None:
    with pytest.raises(AccessError, match="the API key is wrong"):
        JudgeClient(service, api_key="wrong").rubrics_sync()
    with pytest.raises(ServiceUnavailableError, match="check that the judge service runs there"):
        JudgeClient("http://127.0.0.1:9", deadline_s=0.5).version_sync()


async def test_a_digest_depends_on_the_content_and_not_on_the_name(tmp_path: Path) -> None:
    contents = {"one": RUBRIC, "same": RUBRIC, "other": RUBRIC.replace("1-5", "1-7")}
    for name, content in contents.items():
        (tmp_path / f"{name}.toml").write_text(content)
    files = tuple(str(tmp_path / f"{name}.toml") for name in contents)
    async with client(HeldJudge().gateway(GatewayConfig(rubrics=files))) as http:
        rubrics = (await http.get("/v1/rubrics")).json()["rubrics"]
    digests = {rubric["name"]: rubric["digest"] for rubric in rubrics}
    assert digests["one"] == digests["same"] != digests["other"]


async def test_descriptions_need_the_key_and_match_their_schemas() -> None:
    async with client(HeldJudge().gateway(GatewayConfig(api_key=KEY))) as http:
        for path in PATHS:
            assert (await http.get(path)).status_code == 401
        headers = {"Authorization": f"Bearer {KEY}"}
        page = (await http.get("/openapi.json", headers=headers)).json()
        answers = {path: (await http.get(path, headers=headers)).json() for path in PATHS[:3]}
    assert page["info"]["version"] == WIRE_VERSION
    for path, answer in answers.items():
        operation = page["paths"][path]["get"]
        assert {"200", "400", "401"} <= set(operation["responses"])
        reference = operation["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
        schema = page["components"]["schemas"][reference.rpartition("/")[2]]
        assert set(answer) == set(schema["properties"])
    assert answers["/v1/models"]["data"][0]["object"] == "model"
    assert answers["/v1/models"]["data"][0]["created"] > 1_700_000_000
    assert "text/plain" in page["paths"]["/metrics"]["get"]["responses"]["200"]["content"]


@pytest.mark.parametrize(
    ("model", "adapter", "name"),
    [
        ("jongwooko/Flex-VL-7B", None, "jongwooko/Flex-VL-7B"),
        ("/srv/models/my-judge/", None, "my-judge"),
        ("./runs/judge", "/srv/adapters/a", "judge+a"),
        ("flex-smollm2-135m", None, "flex-smollm2-135m"),
        ("scripts:judge", None, "scripts:judge"),
        ("http://10.0.0.1:8000/v1#my-judge", None, "my-judge"),
        ("https://10.0.0.1", None, "remote"),
    ],
)
def test_a_model_is_named_without_the_folders_of_the_operator(model: str, adapter: str | None, name: str) -> None:
    assert name_model(EngineConfig(model, adapter=adapter)) == name


class _Page(HTMLParser):
    """Parser that collects ids, links, forms and references to files."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.forms: list[str] = []
        self.files: list[tuple[str, str]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag not in ("meta", "br"):
            self.open.append(tag)
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "a":
            self.links.append(values["href"])
        if tag == "form":
            self.forms.append(values["data-path"])
        self.files += [(tag, values[name]) for name in ("src", "action", "data", "srcset", "style") if name in values]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


async def test_the_page_of_the_api_needs_no_other_host_and_is_complete() -> None:
    async with client(HeldJudge().gateway()) as http:
        answer, description = await http.get("/docs"), (await http.get("/openapi.json")).json()
    page = _Page()
    page.feed(answer.text)
    assert page.open == []
    assert page.files == []
    assert not re.search(r"https?://(?!\.\.\.)", answer.text.replace("http://HOST", ""))
    assert len(set(page.ids)) == len(page.ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}
    for path in description["paths"]:
        assert f"<code>{path}</code>" in answer.text
    assert set(description["components"]["schemas"]) <= set(page.ids)
    assert {f"/{form}" for form in page.forms} >= {"/v1/judge", "/v1/rewards", "/get_reward", "/version", "/healthz"}


async def test_the_page_runs_only_its_own_script_and_style() -> None:
    async with client(HeldJudge().gateway()) as http:
        answer = await http.get("/docs")
    policy: dict[str, Any] = {
        name: sources for name, _, sources in (p.strip().partition(" ") for p in answer.headers[
            "Content-Security-Policy"].split(";"))
    }  # fmt: skip
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (source,) = re.findall(rf"<{tag}>(.*?)</{tag}>", answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert not re.search(r"\son\w+=", answer.text)
