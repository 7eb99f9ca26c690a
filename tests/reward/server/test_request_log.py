"""Log of the service: access lines without texts, request ids, key names, formats and files."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from web import HeldJudge, client, comparisons, samples, wait_until

from flex_judge.judges import Comparison, FlexJudge, Judgment
from flex_judge.judges.engines.scripted import ScriptedEngine
from flex_judge.judges.errors import AccessError, GenerationError, UsageError
from flex_judge.reward.client.api_key import hash_keys, read_keys, split_keys
from flex_judge.reward.server.auth import check_api_key
from flex_judge.reward.server.gateway import Gateway, GatewayConfig
from flex_judge.reward.server.logs import ROOT_LOGGER, TEXT_LOGGER, LogConfig, configure_logging
from flex_judge.reward.serving.ingress import ReplicaSender
from flex_judge.reward.serving.logs import copy_log
from flex_judge.reward.serving.replica import JudgeReplica
from flex_judge.reward.serving.replica_adapters import ReplicaAdapters

SECRET = "a text that nobody may read"
KEYS = "alice:first-key\nbob:second-key"


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    logger = logging.getLogger(ROOT_LOGGER)
    saved = logger.handlers[:], logger.level, logger.propagate, logging.getLogger(TEXT_LOGGER).level
    yield
    for handler in logger.handlers:
        handler.close()
    logger.handlers[:], logger.level, logger.propagate = saved[0], saved[1], saved[2]
    logging.getLogger(TEXT_LOGGER).setLevel(saved[3])


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def test_each_request_has_one_line_with_its_facts_and_no_text(tmp_path: Path) -> None:
    path = tmp_path / "judge.log"
    configure_logging(LogConfig(log_format="json", log_file=str(path)), "gateway")
    async with client(HeldJudge().gateway(GatewayConfig(api_key=KEYS))) as http:
        alice, bob = ({"Authorization": f"Bearer {key}"} for key in ("first-key", "second-key"))
        answer = await http.post(
            "/v1/judge", json=comparisons(SECRET, "mumble"), headers=alice | {"X-Request-ID": "step-7"}
        )
        assert answer.headers["X-Request-ID"] == "step-7"
        await http.post("/v1/rewards", json=samples(SECRET, "b"), headers=bob)
        query = {"query": [f"Q?{SECRET}"], "prompts": ["Q?"], "labels": [SECRET]}
        await http.post("/get_reward", json=query, headers=bob)
        await http.post("/v1/judge", content=SECRET.encode(), headers=bob)
        refused = await http.get(f"/{SECRET.replace(' ', '-')[:5]}", headers={"Authorization": f"Bearer {SECRET}"})
    rows = read_rows(path)
    facts = [(r["method"], r["route"], r["status"], r["key"], r.get("judgments"), r.get("failures")) for r in rows]
    assert facts == [
        ("POST", "/v1/judge", 200, "alice", 2, 1),
        ("POST", "/v1/rewards", 200, "bob", 2, 0),
        ("POST", "/get_reward", 200, "bob", 1, 0),
        ("POST", "/v1/judge", 415, "bob", None, None),
        ("GET", "other", 401, "-", None, None),
    ]
    assert rows[0]["request_id"] == "step-7"
    assert rows[0]["generated_tokens"] > 0
    assert rows[0]["prompt_tokens"] >= rows[0]["cached_tokens"]
    assert rows[4]["request_id"] == refused.headers["X-Request-ID"]
    assert len({row["request_id"] for row in rows}) == 5
    assert all(row["ms"] >= 0 and row["level"] == "info" and row["process"] == "gateway" for row in rows)
    assert SECRET not in path.read_text()
    assert 'key"' not in path.read_text().replace('"key":', "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_texts_are_logged_only_if_the_operator_asks(tmp_path: Path) -> None:
    path = tmp_path / "judge.log"
    configure_logging(LogConfig(log_format="json", log_file=str(path), log_texts=True), "gateway")
    async with client(HeldJudge().gateway()) as http:
        image = f"data:image/png;base64,{'A' * 100_000}"
        body = comparisons(SECRET)
        body["comparisons"].append({"prompt": "Q?", "responses": ["a"], "images": [image]})
        await http.post("/v1/judge", json=body, headers={"X-Request-ID": "one"})
    assert path.stat().st_size < 10_000  # media are not logged
    texts, access = read_rows(path)
    assert (texts["request_id"], access["request_id"]) == ("one", "one")
    assert json.loads(texts["content"])["comparisons"][0]["responses"] == [SECRET]
    assert json.loads(texts["answer"])["judgments"][0]["reasoning"] == f"I look at: {SECRET}"


async def test_a_root_logger_of_the_application_gets_no_texts(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with client(HeldJudge().gateway()) as http:
            await http.post("/v1/judge", json=comparisons(SECRET))
    assert any(record.name == "flex_judge.access" for record in caplog.records)
    assert SECRET not in caplog.text


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
async def test_levels(level: Any, tmp_path: Path) -> None:
    healthy = True

    async def report_health() -> dict[str, Any]:
        if not healthy:
            raise RuntimeError("unexpected")
        return {}

    path = tmp_path / "judge.log"
    configure_logging(LogConfig(log_level=level, log_format="json", log_file=str(path)), "gateway")
    async with client(HeldJudge().gateway(health=report_health)) as http:
        await http.get("/healthz")
        await http.get("/version")
        healthy = False
        answer = await http.get("/healthz", headers={"X-Request-ID": "bad-one"})
    lines = [(row["level"], row.get("route", "")) for row in read_rows(path)]
    errors = [("error", ""), ("error", "/healthz")]
    info = [("info", "/version")] if level in ("debug", "info") else []
    probes = [("debug", "/healthz")] if level == "debug" else []
    assert lines == [*probes, *info, *errors]
    assert answer.status_code == 500
    assert "bad-one in the service's log" in answer.json()["error"]
    failure = read_rows(path)[-2]
    assert "bad-one" in failure["message"]
    assert "RuntimeError: unexpected" in failure["exception"]


async def test_an_unexpected_error_of_a_row_is_logged_with_its_request(tmp_path: Path) -> None:
    async def fail(_: Comparison) -> Judgment:
        raise RuntimeError("unexpected")

    path = tmp_path / "judge.log"
    configure_logging(LogConfig(log_format="json", log_file=str(path)), "gateway")
    async with client(Gateway(fail)) as http:
        answer = await http.post("/v1/judge", json=comparisons("a"), headers={"X-Request-ID": "bad-row"})
    assert answer.json()["judgments"][0]["status"] == "failed"
    assert "unexpected" not in answer.text
    failure, access = read_rows(path)
    assert failure["request_id"] == access["request_id"] == "bad-row"
    assert "RuntimeError: unexpected" in failure["exception"]
    assert access["status"] == 200


async def test_a_repeated_request_is_logged_with_the_rows_of_the_answer_it_gets(tmp_path: Path) -> None:
    path = tmp_path / "judge.log"
    configure_logging(LogConfig(log_format="json", log_file=str(path)), "gateway")
    key = {"Idempotency-Key": "one"}
    async with client(HeldJudge().gateway()) as http:
        for route, body in (("/v1/judge", comparisons("a", "b")), ("/v1/rewards", samples("a", "b", "c"))):
            for _ in range(2):
                assert (await http.post(route, json=body, headers=key)).status_code == 200
    facts = [(row["route"], row.get("judgments"), row.get("replayed")) for row in read_rows(path)]
    assert facts == [
        ("/v1/judge", 2, None),
        ("/v1/judge", None, 2),
        ("/v1/rewards", 3, None),
        ("/v1/rewards", None, 3),
    ]


@pytest.mark.parametrize("error", [RuntimeError("unexpected"), GenerationError("bad batch")], ids=repr)
async def test_replicas_log_failures_with_the_id_of_the_request(error: Exception, tmp_path: Path) -> None:
    def fail(*_: Any) -> str:
        raise error

    path = tmp_path / "judge.log"
    configure_logging(LogConfig(log_format="json", log_file=str(path)), "replica-1")
    replica = object.__new__(JudgeReplica)  # its own constructor needs Ray Serve
    replica.id, replica._recorder, replica._work_scope = "1", None, ""
    replica.judge = FlexJudge(ScriptedEngine(fail))
    replica.adapters = ReplicaAdapters(replica.judge, "1")
    handle = SimpleNamespace(judge_one=SimpleNamespace(remote=lambda *a, **k: asyncio.ensure_future(_call(*a, **k))))

    async def _call(*arguments: Any, **options: Any) -> Judgment:
        return await replica.judge_one(*arguments, **options)

    async with client(Gateway(ReplicaSender(handle))) as http:
        answer = await http.post("/v1/judge", json=comparisons("a"), headers={"X-Request-ID": "bad-row"})
    assert answer.json()["judgments"][0]["status"] == "failed"
    logged, *_ = read_rows(path)
    assert logged["request_id"] == "bad-row"
    assert str(error) in logged["message"] + logged.get("exception", "")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ("a\u00ff b", "a___b"),
        ("x" * 5000, "x" * 128),
        ("9f86d081-88_4c.7d:65", "9f86d081-88_4c.7d:65"),
        ('"} {"level": "error"', "____level_:__error_"),
    ],
)
async def test_request_ids_of_strangers_are_limited(sent: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "judge.log"
    configure_logging(LogConfig(log_format="json", log_file=str(path)), "gateway")
    async with client(HeldJudge().gateway()) as http:
        await http.get("/version", headers={"X-Request-ID": sent.encode("utf-8")})
    assert read_rows(path)[0]["request_id"].strip("_") == expected.strip("_")


async def test_text_lines_cannot_be_forged(tmp_path: Path) -> None:
    path = tmp_path / "judge.log"
    configure_logging(LogConfig(log_file=str(path)), "gateway")
    async with client(HeldJudge().gateway()) as http:
        await http.get("/%0a2026-01-31T12:00:00.000Z%20INFO%20gateway%20forged\u2028line")
        logging.getLogger("flex_judge.test").warning("a message\nwith \u2028 lines\r and \x1b[31m color")
    lines = path.read_text().split("\n")
    assert len(lines) == 3
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO gateway request request_id=\w+ method=GET", lines[0])
    assert lines[1].endswith(r"WARNING gateway a message\x0awith \u2028 lines\x0d and \x1b[31m color")


def test_several_processes_append_to_one_file_and_follow_logrotate(tmp_path: Path) -> None:
    path = tmp_path / "judge.log"
    configure_logging(LogConfig(log_file=str(path)), "first")
    logging.getLogger("flex_judge.test").info("one")
    configure_logging(LogConfig(log_file=str(path)), "second")
    logging.getLogger("flex_judge.test").info("two")
    os.replace(path, tmp_path / "judge.log.1")
    logging.getLogger("flex_judge.test").info("three")
    assert [line.split(" ", 2)[2] for line in (tmp_path / "judge.log.1").read_text().splitlines()] == [
        "first one",
        "second two",
    ]
    assert path.read_text().endswith("second three\n")


def test_the_log_file_may_be_the_standard_error_of_a_container() -> None:
    code = (
        "import logging; from flex_judge.reward.server.logs import LogConfig, configure_logging\n"
        "configure_logging(LogConfig(log_file='/proc/self/fd/2'), 'gateway')\n"
        "for word in ('one', 'two'): logging.getLogger('flex_judge.test').info(word)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [line.rpartition(" ")[2] for line in done.stderr.splitlines()] == ["one", "two"]


async def test_a_large_copied_log_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flex_judge.reward.serving.logs.MAX_COPIED_BYTES", 2000)
    path, shown = tmp_path / "judge.log", StringIO()
    configure_logging(LogConfig(), "gateway", str(path))
    with copy_log(str(path), shown):
        for i in range(60):
            logging.getLogger("flex_judge.test").info("line %d", i)
        await wait_until(lambda: shown.getvalue().endswith("line 59\n"))
        await wait_until(lambda: (tmp_path / "judge.log.1").exists())
        logging.getLogger("flex_judge.test").info("after")
    assert [line.partition("gateway ")[2] for line in shown.getvalue().splitlines()] == [
        *(f"line {i}" for i in range(60)),
        "after",
    ]
    assert path.stat().st_size < 2000  # a busy machine may move the file before the last lines


def test_a_log_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "no" / "such" / "folder.log"):
        with pytest.raises(UsageError, match=r"^log_file '.*' cannot be written: .*; choose a file"):
            configure_logging(LogConfig(log_file=str(path)), "gateway")


async def test_lines_are_copied_until_the_reader_fails(tmp_path: Path) -> None:
    path, shown = tmp_path / "judge.log", StringIO()
    path.write_text("old\n")
    with copy_log(str(path), shown):
        with path.open("a") as file:
            file.write("new\n")
        await wait_until(lambda: shown.getvalue() == "new\n")
        with path.open("a") as file:
            file.write("last\n")
    assert shown.getvalue() == "new\nlast\n"

    class Broken(StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    with copy_log(str(path), Broken()), path.open("a") as file:
        file.write("nobody reads this\n")


@pytest.mark.parametrize("sent", ["Bearer second-key", "bearer  second-key ", "Bearer bob:second-key"])
def test_a_request_has_the_name_of_its_key(sent: str) -> None:
    assert check_api_key(sent, KEYS) == "bob"


@pytest.mark.parametrize("sent", ["Bearer bob", "Bearer alice:second-key", "Bearer :second-key", "Bearer", KEYS])
def test_a_name_opens_nothing(sent: str) -> None:
    with pytest.raises(AccessError):
        check_api_key(sent, KEYS)


def test_keys_come_from_a_file_with_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "keys"
    path.write_text("# trainers\nalice:first-key\n\nbob:second-key\n")
    assert read_keys(str(path)) == KEYS
    assert GatewayConfig(api_key=read_keys(str(path))).api_key == hash_keys(KEYS)
    assert split_keys(KEYS) == [("alice", "first-key"), ("bob", "second-key")]
    hashed = f"sha256:{'0a' * 32}"
    assert split_keys(f"{hashed}\nbob:{hashed}") == [("", hashed), ("bob", hashed)]
    monkeypatch.setenv("JUDGE_KEY", "only-key")
    assert read_keys("env:JUDGE_KEY") == "only-key"
    for text, problem in (
        ("a:1\na:2\n", "different names"),
        ("one\ntwo\n", "different names"),
        ("a: one\n", "expected lines"),
        ("# nothing\n", "expected lines"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=problem):
            read_keys(str(path))
