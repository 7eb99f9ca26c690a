"""A policy behind an OpenAI-compatible endpoint, against a real HTTP server that misbehaves."""

from __future__ import annotations

import asyncio
import base64
import io
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from served import Served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flex_judge.alignment.policies import Completion, OpenAIPolicy, PolicyConfig, endpoint, load_policy
from flex_judge.judges import Comparison, Message
from flex_judge.judges.engines import Sampling
from flex_judge.judges.errors import AccessError, EngineLostError, MediaError, UsageError
from flex_judge.judges.media.opening import make_molecule, make_video

KEY = "sk-very-secret"
WARM = Sampling(16, 0.8, top_p=0.9)
PROMPT = (Message("system", "Be brief."), Message("user", "Name a colour."))


class Server:
    """Answers each request with the next response of its script, and then as a model would: its texts tell the seed and
    the index. Gives `most` choices at most, and refuses to be asked for more than `allowed`.
    """

    def __init__(self) -> None:
        self.script: deque[Response] = deque()
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.most, self.allowed = 128, 128
        self.wait_s = 0.0
        self.at_once, self.most_at_once = 0, 0
        self.served = Served(
            lambda: Starlette(
                routes=[
                    Route("/v1/chat/completions", self.complete, methods=["POST"]),
                    Route("/v1/models", lambda _: JSONResponse({"data": []})),
                ]
            )
        )

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.seen.append(body)
        self.keys.append(request.headers.get("Authorization"))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(self.wait_s)
        self.at_once -= 1
        if self.script:
            return self.script.popleft()
        n = body.get("n", 1)
        if n > self.allowed:
            return JSONResponse({"error": {"message": f"n must be at most {self.allowed}"}}, 400)
        return answer([f"{body.get('seed', 'no seed')} {i}" for i in range(min(n, self.most))])


def answer(texts: Sequence[str | None], tokens: int | None = None, reason: str = "stop") -> Response:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": t}, "finish_reason": reason}
        for i, t in enumerate(texts)
    ]
    usage = {"prompt_tokens": 9, "completion_tokens": 5 * len(texts) if tokens is None else tokens}
    return JSONResponse({"choices": choices, "usage": usage})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(endpoint, "FIRST_RETRY_S", 0.01)
    monkeypatch.setenv("POLICY_KEY", KEY)
    server = Server()
    server.served.start()
    yield server
    server.served.stop()


@pytest.fixture
def policy(server: Server) -> Iterator[OpenAIPolicy]:
    policy = OpenAIPolicy(server.served.url, "tiny", "env:POLICY_KEY", deadline_s=5)
    yield policy
    policy.close()


def sampled(
    policy: Any, sampling: Sampling = WARM, sample_indices: Sequence[int] = range(1), prompt: Any = PROMPT
) -> list[str]:
    return [c.text for c in asyncio.run(policy.sample(prompt, sampling, sample_indices))]


def test_all_draws_of_a_prompt_are_one_request(server: Server, policy: OpenAIPolicy) -> None:
    assert sampled(policy, sample_indices=range(5)) == [f"no seed {i}" for i in range(5)]
    (body,) = server.seen
    assert body == {
        "model": "tiny",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}],
        "max_tokens": 16,
        "temperature": 0.8,
        "top_p": 0.9,
        "n": 5,
    }
    assert server.keys == [f"Bearer {KEY}"]


def test_an_endpoint_that_gives_fewer_is_asked_again_and_then_in_its_own_measure(
    server: Server, policy: OpenAIPolicy
) -> None:
    server.most = 2
    assert len(sampled(policy, sample_indices=range(5))) == 5
    assert [body.get("n") for body in server.seen] == [5, 2, None]
    server.seen.clear()
    assert len(sampled(policy, sample_indices=range(5))) == 5
    assert sorted(body.get("n", 1) for body in server.seen) == [1, 2, 2]


def test_an_endpoint_that_refuses_several_is_asked_one_by_one(server: Server, policy: OpenAIPolicy) -> None:
    server.allowed = 1
    assert len(sampled(policy, sample_indices=range(3))) == 3
    assert [body.get("n") for body in server.seen] == [3, None, None, None]


def test_with_a_seed_a_draw_is_the_same_whichever_others_are_asked_for(server: Server, policy: OpenAIPolicy) -> None:
    seeded = Sampling(16, 0.8, seed=7)
    all_four = sampled(policy, seeded, range(4))
    assert len(set(all_four)) == 4
    assert sampled(policy, seeded, [3, 1]) == [all_four[3], all_four[1]]
    assert all(0 <= body["seed"] < 2**31 and "n" not in body for body in server.seen)
    assert sampled(policy, Sampling(16, 0.8, seed=8), [0]) != all_four[:1]


def test_texts_end_before_the_stop_and_what_was_cut_off_says_so(server: Server, policy: OpenAIPolicy) -> None:
    server.script.append(answer([" red\nand blue ", "green"], tokens=11, reason="length"))
    found = asyncio.run(policy.sample(PROMPT, Sampling(16, 1.0, stop=("\n",)), range(2)))
    assert [(c.text, c.cut) for c in found] == [("red", True), ("green", True)]
    assert sum(c.tokens for c in found) == 11
    assert found[0].tokens > found[1].tokens > 0
    assert server.seen[0]["stop"] == ["\n"]


def test_a_completion_without_content_is_an_empty_one(server: Server, policy: OpenAIPolicy) -> None:
    server.script.append(answer([None], tokens=0))
    assert asyncio.run(policy.sample(PROMPT, WARM, [0])) == [Completion("", 0, False)]


def test_images_are_data_uris_and_molecules_text(server: Server, policy: OpenAIPolicy) -> None:
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    files = []
    for picture, kind in zip(pictures, ("JPEG", "BMP"), strict=True):
        file = io.BytesIO()
        picture.save(file, kind)
        files.append(file.getvalue())
    (message,) = Comparison.of("What is it?", "", images=files).prompt
    sampled(policy, prompt=[message, Message("user", ("And this? ", make_molecule("CCO")))])
    first, second = (m["content"] for m in server.seen[0]["messages"])
    urls = [part["image_url"]["url"] for part in first if part["type"] == "image_url"]
    assert urls[0] == "data:image/jpeg;base64," + base64.b64encode(files[0]).decode()
    head, _, data = urls[1].partition(",")
    assert head == "data:image/png;base64"  # what few endpoints take is sent as what they do
    assert Image.open(io.BytesIO(base64.b64decode(data))).getpixel((0, 0)) == (0, 0, 255)
    assert first[-1] == {"type": "text", "text": "What is it?"}
    assert [part["text"] for part in second] == ["And this? ", "CCO"]


def test_a_video_is_refused(policy: OpenAIPolicy) -> None:
    film = make_video([Image.new("RGB", (8, 8))] * 2, fps=1)
    with pytest.raises(MediaError, match="no video"):
        sampled(policy, prompt=[Message("user", (film,))])


def test_it_never_samples_greedily_in_silence(server: Server, policy: OpenAIPolicy) -> None:
    with pytest.raises(UsageError, match="temperature"):
        sampled(policy, Sampling(16), range(2))
    assert not server.seen
    assert len(sampled(policy, Sampling(16))) == 1


def test_a_busy_endpoint_is_asked_again(server: Server, policy: OpenAIPolicy) -> None:
    server.script += [Response("busy", 429, {"Retry-After": "0"}), Response("", 503), Response("oops", 500)]
    assert sampled(policy) == ["no seed 0"]
    assert len(server.seen) == 4


def test_an_endpoint_that_stays_broken_is_lost_and_says_what_was_wrong_last(server: Server) -> None:
    policy = OpenAIPolicy(server.served.url, "tiny", deadline_s=0.1)
    server.script += [Response("out of memory", 500)] * 99
    with pytest.raises(EngineLostError, match="500: out of memory"):
        sampled(policy)
    policy.close()


def test_an_endpoint_that_is_away_is_lost_and_found_when_it_is_back(server: Server) -> None:
    policy = OpenAIPolicy(server.served.url, "tiny", deadline_s=0.3)
    asyncio.run(policy.check_health())
    server.served.stop()
    with pytest.raises(EngineLostError, match="no answer"):
        sampled(policy)
    with pytest.raises(EngineLostError, match="no answer"):
        asyncio.run(policy.check_health())
    server.served.start()
    assert sampled(policy) == ["no seed 0"]
    policy.close()


def test_an_endpoint_that_hangs_is_lost_at_the_deadline(server: Server) -> None:
    server.wait_s = 1.0
    policy = OpenAIPolicy(server.served.url, "tiny", attempt_s=0.05, deadline_s=0.2)
    with pytest.raises(EngineLostError, match="ReadTimeout"):
        sampled(policy)
    assert len(server.seen) > 1
    policy.close()


@pytest.mark.parametrize(
    "body",
    [{"error": {"message": "prompt is too long"}}, {"message": "prompt is too long"}, {"detail": "prompt is too long"},
     {"error": "prompt is too long"}],
)  # fmt: skip
def test_a_refusal_is_in_the_words_of_the_endpoint(server: Server, policy: OpenAIPolicy, body: Any) -> None:
    server.script.append(JSONResponse(body, 400))
    with pytest.raises(UsageError, match="400: prompt is too long"):
        sampled(policy)
    assert len(server.seen) == 1


def test_the_key_is_in_no_message_and_no_repr(server: Server, policy: OpenAIPolicy) -> None:
    server.script.append(JSONResponse({"error": {"message": f"Incorrect API key: {KEY}."}}, 401))
    with pytest.raises(AccessError) as refused:
        sampled(policy, sample_indices=range(2))
    assert "Incorrect API key: ***." in str(refused.value)
    config = PolicyConfig("m", url="http://h", api_key=KEY)  # a mistake, and no reason to show it
    assert KEY not in f"{refused.value} {policy!r} {vars(policy)['url']} {config!r}"
    with pytest.raises(UsageError) as unread:
        load_policy(config)
    assert KEY not in str(unread.value)


def test_the_key_may_stand_in_a_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("another\n")
    policy = OpenAIPolicy(server.served.url, "tiny", str(tmp_path / "key"))
    sampled(policy)
    assert server.keys == ["Bearer another"]
    policy.close()


@pytest.mark.parametrize("body", ["[]", "{}", '{"choices": [{}]}', '{"choices": [1]}', "<html>"])
def test_an_address_of_something_else_is_named(server: Server, policy: OpenAIPolicy, body: str) -> None:
    server.script.append(Response(body))
    with pytest.raises(UsageError, match="is this the address of an OpenAI-compatible endpoint"):
        sampled(policy)


def test_an_answer_without_completions_is_a_failure_and_no_text(server: Server, policy: OpenAIPolicy) -> None:
    server.script.append(answer([]))
    with pytest.raises(EngineLostError, match="without a completion"):
        sampled(policy)


def test_an_unknown_route_says_what_may_be_wrong(server: Server) -> None:
    policy = OpenAIPolicy(f"{server.served.url}/v2", "tiny")
    with pytest.raises(UsageError, match="are the address and the name of the model right"):
        sampled(policy)
    policy.close()


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host", "http://", "http://me:pw@host/v1", "http://h/v1?key=pw", "http://h:x/v1"]
)
def test_an_address_that_is_none_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(UsageError, match="url: expected") as refused:
        OpenAIPolicy(url, "m")
    assert "pw" not in str(refused.value)


def test_no_more_requests_are_under_way_than_allowed(server: Server) -> None:
    server.wait_s = 0.02
    policy = load_policy(PolicyConfig("tiny", url=f"{server.served.url}/v1", max_batch=3))
    sampled(policy, Sampling(16, 1.0, seed=1), range(9))
    assert server.most_at_once == 3
    policy.close()


def test_further_fields_are_sent_and_those_that_are_none_left_out(server: Server) -> None:
    options = {"top_k": 20, "max_tokens": None, "max_completion_tokens": 99}
    policy = load_policy(PolicyConfig("tiny", url=server.served.url, options=options))
    sampled(policy)
    assert server.seen[0]["top_k"] == 20
    assert server.seen[0]["max_completion_tokens"] == 99
    assert "max_tokens" not in server.seen[0]
    policy.close()


def test_what_cannot_be_asked_of_an_endpoint_is_refused(policy: OpenAIPolicy) -> None:
    with pytest.raises(UsageError, match="no regex"):
        sampled(policy, Sampling(16, 1.0, regex="[ab]"))


def test_a_text_that_is_half_a_surrogate_pair_gets_there(server: Server, policy: OpenAIPolicy) -> None:
    sampled(policy, prompt=[Message("user", "half \ud83d")])
    assert server.seen[0]["messages"][0]["content"] == "half \ud83d"
