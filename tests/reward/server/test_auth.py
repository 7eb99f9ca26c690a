"""Authentication, size limits and input validation of requests."""

from __future__ import annotations

import base64
import json
import pickle
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from clips import encode_uri, noise, picture
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web import HeldJudge, client, comparisons, get_statuses, samples

from flex_judge.judges.errors import UsageError
from flex_judge.reward.server.auth import check_api_key, parse_strict_json
from flex_judge.reward.server.errors import FieldError
from flex_judge.reward.server.gateway import Gateway, GatewayConfig

KEY = "correct-horse-battery-staple"
ROUTES = [
    ("POST", "/v1/judge"),
    ("POST", "/v1/rewards"),
    ("POST", "/get_reward"),
    ("POST", "/rm"),
    ("PUT", f"/v1/media/image/{'0' * 64}"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/metrics"),
    ("GET", "/version"),
    ("GET", "/v1/models"),
    ("GET", "/v1/rubrics"),
    ("GET", "/nowhere"),
    ("DELETE", "/v1/judge"),
]
opened: list[str] = []
_watched = False


def _record_open(event: str, args: tuple[Any, ...]) -> None:
    if _watched and event == "open":
        opened.append(str(args[0]))


sys.addaudithook(_record_open)  # audit hooks cannot be removed, so a flag switches it on and off


@pytest.fixture
def files_opened() -> Iterator[list[str]]:
    """Yield the names of the files that the test opens."""
    global _watched
    opened.clear()
    _watched = True
    yield opened
    _watched = False


@pytest.fixture
async def web() -> AsyncIterator[httpx.AsyncClient]:
    async with client(HeldJudge().gateway(GatewayConfig(max_body_mib=1, max_items=8, max_media=3))) as http:
        yield http


def basic_header(password: str) -> str:
    return "Basic " + base64.b64encode(f"judge:{password}".encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        KEY,
        f"Token {KEY}",
        basic_header("wrong"),
    ],
)
async def test_every_route_but_healthz_needs_the_key(authorization: str | None) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    async with client(HeldJudge().gateway(GatewayConfig(api_key=KEY))) as http:
        for method, path in ROUTES:
            answer = await http.request(method, path, headers=headers)
            assert answer.status_code == 401
            assert "Authorization: Bearer KEY" in answer.json()["error"]
            assert KEY not in answer.text
        assert (await http.get("/healthz")).status_code == 200


@pytest.mark.parametrize("authorization", [f"Bearer {KEY}", f"bearer {KEY}", basic_header(KEY)])
async def test_accepts_requests_with_the_key(authorization: str) -> None:
    async with client(
        HeldJudge().gateway(GatewayConfig(api_key=KEY)), headers={"Authorization": authorization}
    ) as http:
        assert (await http.post("/v1/judge", json=comparisons("a"))).status_code == 200
        assert (await http.get("/openapi.json")).status_code == 200
        assert (await http.get("/nowhere")).status_code == 404


@pytest.mark.parametrize(
    "given", ["Basic !!!", "Basic", "Bearer \udc80", "Bearer é", "\0", basic_header("é"), "Basic w7/DvsO/"]
)
def test_rejects_malformed_authorization_headers(given: str) -> None:
    with pytest.raises(UsageError):
        check_api_key(given, KEY)


def test_settings_keep_the_hash_of_a_key_only() -> None:
    config = GatewayConfig(api_key=KEY)
    assert KEY not in repr(config)
    assert KEY.encode() not in pickle.dumps(config)
    assert replace(config, max_pending=5000).api_key == config.api_key == GatewayConfig(api_key=config.api_key).api_key
    with pytest.raises(UsageError):  # whoever reads the hash cannot use it
        check_api_key(f"Bearer {config.api_key}", config.api_key)


@pytest.mark.parametrize("key", ["", "two words", "line\n", "ключ"])
def test_config_rejects_keys_that_headers_cannot_hold(key: str) -> None:
    with pytest.raises(UsageError, match="api_key must be"):
        GatewayConfig(api_key=key)


async def test_does_not_read_a_body_with_a_too_large_content_length(web: httpx.AsyncClient) -> None:
    async def never() -> AsyncIterator[bytes]:
        raise AssertionError("was read")
        yield b""

    headers = {"Content-Length": str(2 << 20), "Content-Type": "application/json"}
    answer = await web.post("/v1/judge", content=never(), headers=headers)
    assert answer.status_code == 413
    assert "1 MiB allowed" in answer.json()["error"]


@pytest.mark.parametrize(("method", "path"), ROUTES[:4])
async def test_limits_the_size_of_a_chunked_body(web: httpx.AsyncClient, method: str, path: str) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield b" " * (1 << 18)

    answer = await web.request(method, path, content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert sent <= 6


async def test_rejects_too_many_rows_and_too_many_media(web: httpx.AsyncClient) -> None:
    answer = await web.post("/v1/judge", json=comparisons(*"abcdefghi"))
    assert answer.status_code == 413
    assert answer.json()["error"].startswith("comparisons: 9 are more than the 8 allowed")
    image = encode_uri(picture(noise(8, 8)), "image/png")
    body = {"samples": [{"prompt": "p", "response": "r"}, {"prompt": "p", "response": "r", "images": [image] * 4}]}
    answer = await web.post("/v1/rewards", json=body)
    assert get_statuses(answer) == ["ok", "invalid_input"]
    assert answer.json()["rewards"][1]["detail"].startswith("samples[1]: 4 media are more than the 3 allowed")


async def test_limits_the_total_size_of_concurrent_requests() -> None:
    judge = HeldJudge()
    gateway = judge.gateway(GatewayConfig(max_body_mib=1, max_bodies_mib=1))
    async with client(gateway) as http:
        with gateway.bodies.reserve_body() as count:
            count((1 << 20) - 10)
            answer = await http.post("/v1/judge", json=comparisons("a"))
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
        assert (await http.post("/v1/judge", json=comparisons("a"))).status_code == 200
    assert gateway.bodies.bytes == 0


DEEP = "[" * 100_000
HOSTILE: list[tuple[str, str]] = [
    ("", "body"),
    ("null", "body"),
    ("[]", "body"),
    ('"text"', "body"),
    ("{", "body"),
    ("{}", ""),
    ('{"a": NaN}', "body"),
    ('{"a": 1, "a": 2}', "body"),
    ('{"a": -Infinity}', "body"),
    ('{"a": 1' + "0" * 5000 + "}", "body"),
    (DEEP, "body"),
    ('{"a":' * 50_000, "body"),
    ('{"a":' * 300 + "1" + "}" * 300, "body"),
    ("[" * 900 + "]" * 900, "body"),
    ("\ufeff{}", "body"),
]


@pytest.mark.parametrize(("body", "field"), HOSTILE, ids=[h[0][:20] for h in HOSTILE])
@pytest.mark.parametrize("path", ["/v1/judge", "/v1/rewards", "/get_reward", "/rm"])
async def test_rejects_invalid_json(web: httpx.AsyncClient, path: str, body: str, field: str) -> None:
    answer = await web.post(path, content=body.encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["field"] == (
        field or {"/v1/judge": "comparisons", "/v1/rewards": "samples", "/rm": "prompt"}.get(path, "query")
    )
    assert "\n" not in answer.json()["error"]


async def test_rejects_bytes_that_are_not_utf8(web: httpx.AsyncClient) -> None:
    for body in (b"\xff\xfe{}", b'{"a": "\xff"}', "{}".encode("utf-16"), b"\0" * 100):
        answer = await web.post("/v1/judge", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["field"]) == (422, "body")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_rejects_content_types_that_browsers_send_without_preflight(
    web: httpx.AsyncClient, kind: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await web.post("/v1/judge", content=json.dumps(comparisons("a")).encode(), headers=headers)
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["error"]


HUGE = 10**400
ENVELOPES: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/judge", {"comparisons": []}, "comparisons"),
    ("/v1/judge", {"comparisons": {}}, "comparisons"),
    ("/v1/judge", {"comparisons": None}, "comparisons"),
    ("/v1/judge", comparisons("a") | {"deadline": 3}, "deadline"),
    ("/v1/judge", comparisons("a") | {"deadline_s": -1}, "deadline_s"),
    ("/v1/judge", comparisons("a") | {"deadline_s": "3"}, "deadline_s"),
    ("/v1/judge", comparisons("a") | {"deadline_s": True}, "deadline_s"),
    ("/v1/judge", comparisons("a") | {"deadline_s": HUGE}, "deadline_s"),
    ("/v1/rewards", {"samples": []}, "samples"),
    ("/v1/rewards", samples("a", rubric="/etc/passwd"), "rubric"),
    ("/v1/rewards", samples("a", rubric=""), "rubric"),
    ("/v1/rewards", samples("a", rubric=3), "rubric"),
    ("/v1/rewards", samples("a", rubric="vl_rewardbench"), "rubric"),
    ("/v1/rewards", samples("a", rubric="\ud83d\0"), "rubric"),
    ("/v1/rewards", samples("a", method="duel"), "method"),
    ("/v1/rewards", samples("a", reward=None), "reward"),
    ("/v1/rewards", samples("a", normalize="softmax"), "normalize"),
    ("/v1/rewards", samples("a", group_size=0), "group_size"),
    ("/v1/rewards", samples("a", group_size=HUGE), "group_size"),
    ("/v1/rewards", samples("a", group_size=2.5), "group_size"),
    ("/v1/rewards", samples("a", group_timeout_s=-1), "group_timeout_s"),
    ("/v1/rewards", samples("a", group_timeout_s=601, group_size=2, reward="rank"), "group_timeout_s"),
    ("/v1/rewards", samples("a", group_timeout_s=HUGE), "group_timeout_s"),
    ("/get_reward", {"query": "ab", "prompts": "a"}, "query"),
    ("/get_reward", {"query": [3], "prompts": ["a"]}, "query[0]"),
    ("/get_reward", {"query": ["ab"], "prompts": [None]}, "prompts[0]"),
    ("/get_reward", {"query": ["ab"]}, "prompts"),
    ("/get_reward", {"query": ["ab"], "prompts": []}, "prompts"),
    ("/get_reward", {"query": ["ab"], "prompts": ["a"], "labels": [1, 2]}, "labels"),
    ("/get_reward", {"query": ["ab"], "prompts": ["a"], "labels": "no"}, "labels"),
    ("/rm", {"response": "a"}, "prompt"),
    ("/rm", {"prompt": "a"}, "response"),
    ("/rm", {"prompt": "a", "response": ["b"]}, "response"),
]


@pytest.mark.parametrize(("path", "body", "field"), ENVELOPES, ids=[f"{e[0]} {str(e[1])[-50:]}" for e in ENVELOPES])
async def test_error_names_the_invalid_field(
    web: httpx.AsyncClient, path: str, body: dict[str, Any], field: str
) -> None:
    answer = await web.post(path, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert answer.json()["error"].startswith(f"{field}: ")


async def test_never_opens_a_path_from_a_request(
    web: httpx.AsyncClient, tmp_path: Path, files_opened: list[str]
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(noise(8, 8)))
    rubric = tmp_path / "mine.toml"
    rubric.write_text('criteria = "brevity"\nscale = "1-5"\n')
    files_opened.clear()
    for path in (str(secret), secret.as_uri(), f"file:{secret}", f"//localhost{secret}"):
        for reference in (path, {"path": path}, {"url": path}, {"bytes": None, "path": path}, {"digest": path}, [path]):
            for part in ({"type": "image", "image": reference}, {"type": "image_url", "image_url": {"url": path}}):
                body = {"samples": [{"prompt": [{"role": "user", "content": [part]}], "response": "r"}]}
                assert get_statuses(await web.post("/v1/rewards", json=body)) == ["invalid_input"]
            frames = {"type": "video", "video": {"frames": [reference], "fps": 1}}
            for body in (comparisons([frames]), comparisons("a", images=[reference])):
                assert get_statuses(await web.post("/v1/judge", json=body)) == ["invalid_input"]
            label = json.dumps({"images": [reference]})
            openrlhf = {"query": ["ab"], "prompts": ["a"], "labels": [label]}
            answer = await web.post("/get_reward", json=openrlhf)
            assert (answer.status_code, answer.json()["rewards"]) == (200, [None])
    for name in (str(rubric), str(rubric).removesuffix(".toml"), "mine"):
        assert get_statuses(await web.post("/v1/judge", json=comparisons("a", rubric=name))) == ["invalid_input"]
    assert (await web.put(f"/v1/media/image/..%2f..%2f{'0' * 64}", content=b"x")).status_code in (404, 422)
    assert not [name for name in files_opened if str(tmp_path) in name]


async def test_hides_the_details_of_internal_errors() -> None:
    async def broken(_: Any) -> Any:
        raise ZeroDivisionError("the secret of the house")

    async with client(Gateway(broken)) as http:
        for path, body in (("/v1/judge", comparisons("a")), ("/v1/rewards", samples("a"))):
            answer = await http.post(path, json=body)
            assert get_statuses(answer) == ["failed"]
            assert "secret" not in answer.text
    async with client(HeldJudge().gateway(health=partial(broken, None))) as http:
        answer = await http.get("/healthz", headers={"X-Request-ID": "id-7"})
        assert answer.status_code == 500
        assert answer.json() == {
            "error": "the request failed because of an internal error; look for id-7 in the service's log, whose "
            "file `flex-judge serve` names when it starts"
        }


async def test_unknown_routes_and_methods_give_json_errors(web: httpx.AsyncClient) -> None:
    for method, path, status in (("GET", "/", 404), ("POST", "/v1/judge/", 404), ("GET", "/v1/judge", 405)):
        answer = await web.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()) == {"error"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = ["prompt", "response", "responses", "images", "role", "content", "type", "image", "video", "frames", "digest"]
rows = st.recursive(
    json_values | st.sampled_from([*FIELDS, "text", "image_url"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows | st.fixed_dictionaries({"prompt": rows, "response": rows}), max_size=2), st.data())
async def test_every_request_is_judged_or_rejected(
    web: httpx.AsyncClient, samples: list[Any], data: st.DataObject
) -> None:
    rest = data.draw(
        st.dictionaries(st.sampled_from(["method", "group_size", "group_timeout_s", "rubric"]), json_values)
    )
    body = json.dumps({"samples": samples} | rest).encode()
    answer = await web.post("/v1/rewards", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (200, 409, 413, 422)
    if answer.status_code != 200:
        assert answer.json()["error"]
    else:
        assert len(answer.json()["rewards"]) == len(samples)
        assert all(reward["detail"] for reward in answer.json()["rewards"] if reward["status"] != "ok")


def test_limits_the_nesting_depth_of_json() -> None:
    assert parse_strict_json("[" * 32 + "]" * 32)
    with pytest.raises(FieldError, match="at most 32 nested levels"):
        parse_strict_json("[" * 33 + "]" * 33)
