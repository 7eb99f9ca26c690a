"""Limits of the HTTP proxy, with raw connections to uvicorn as Ray Serve runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
import uvicorn
from served import Served
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flex_judge.reward.serving import proxy_limits
from flex_judge.reward.serving.cluster import has_proxy_limits
from flex_judge.reward.serving.proxy_limits import LimitedHttpProtocol, ProxyGuard

HEAD = b"POST /size HTTP/1.1\r\nHost: a\r\n"
GET = b"GET /size HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


async def report_size(request: Request) -> Response:
    body = await request.body()
    return JSONResponse({"size": len(body), "headers": sorted(request.headers)})


class Proxy:
    """Connections to a server with the limits."""

    def __init__(self, port: int, server: uvicorn.Server) -> None:
        self.port = port
        self.server = server

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)

    async def send(self, *pieces: bytes) -> tuple[int, dict[str, object], bool]:
        """Send bytes on a new connection; return status, JSON, and whether the server closed the connection."""
        reader, writer = await self.connect()
        response = asyncio.create_task(read_response(reader))  # a reset while writing may lose what was not read
        with contextlib.suppress(ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
        return await response

    async def is_well(self) -> bool:
        status, answer, _ = await self.send(HEAD + b"Content-Length: 3\r\n\r\nabc")
        return status == 200 and answer["size"] == 3


async def read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, object], bool]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if line)
    body = await reader.readexactly(int(fields[b"content-length"]))
    is_closed = fields.get(b"connection") == b"close"
    if is_closed:
        with contextlib.suppress(ConnectionError):
            assert not await asyncio.wait_for(reader.read(), 10)
    return int(head.split()[1]), json.loads(body), is_closed


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    monkeypatch.setattr(proxy_limits, "HEAD_TIMEOUT_S", 0.5)
    monkeypatch.setattr(proxy_limits, "BODY_GRACE_S", 0.5)
    monkeypatch.setattr(proxy_limits, "MAX_CONNECTIONS", 8)
    app = ProxyGuard(Starlette(routes=[Route("/size", report_size, methods=["GET", "POST"])]), 1 << 20)
    config = uvicorn.Config(
        app, port=0, http=LimitedHttpProtocol, log_level="critical", lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    running = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield Proxy(server.servers[0].sockets[0].getsockname()[1], server)
    server.should_exit = True
    await running


async def test_ordinary_requests_work(proxy: Proxy) -> None:
    reader, writer = await proxy.connect()
    for size in (0, 1, 70_000, 1 << 20):
        writer.write(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"a" * size)
        status, answer, _ = await read_response(reader)
        assert (status, answer["size"]) == (200, size)
    block = b"ffff\r\n" + b"a" * 0xFFFF + b"\r\n"
    writer.write(CHUNKED + block * 10 + b"0\r\n\r\n")
    assert (await read_response(reader))[1]["size"] == 10 * 0xFFFF
    writer.write(GET + b"X: " + b"a" * 60_000 + b"\r\n\r\n")
    assert (await read_response(reader))[0] == 200
    await asyncio.sleep(1)  # an idle connection outlives the time limit of a head
    writer.write((GET + b"\r\n") * 3)
    assert [(await read_response(reader))[0] for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(
    "start",
    [GET + b"X: ", GET, b"GET /size?", b"G" * 10, GET + b"X" * 10, b"GET /size HTTP/1.1\r\nHost: a\r\n\r\n" + GET],
)
@pytest.mark.parametrize("block", [b"a" * 1000, b"a: b\r\n" * 200])
async def test_a_head_is_bounded(proxy: Proxy, start: bytes, block: bytes) -> None:
    reader, writer = await proxy.connect()
    writer.write(start)
    with contextlib.suppress(ConnectionError):
        for _ in range(2000):
            writer.write(block)
            await writer.drain()
    with contextlib.suppress(ConnectionError):
        received = await asyncio.wait_for(reader.read(), 10)  # to the end: the server has closed the connection
        assert received.rpartition(b"HTTP/1.1 ")[2][:3] in (b"431", b"400")
    assert await proxy.is_well()


async def test_a_large_head_is_answered_with_431(proxy: Proxy) -> None:
    status, answer, is_closed = await proxy.send(GET + b"X: " + b"a" * (64 << 10))
    assert (status, is_closed) == (431, True)
    assert "64 KiB" in str(answer["error"])


@pytest.mark.parametrize("start", [b"", b"GET /", GET, GET + b"X: a"])
async def test_a_slow_head_is_closed(proxy: Proxy, start: bytes) -> None:
    reader, writer = await proxy.connect()
    writer.write(start)

    async def drip() -> None:
        while start:
            writer.write(b"a")
            await asyncio.sleep(0.05)

    dripping = asyncio.create_task(drip())
    received = await asyncio.wait_for(reader.read(), 10)
    dripping.cancel()
    assert received.startswith(b"HTTP/1.1 408 ") if start else received == b""
    assert await proxy.is_well()


@pytest.mark.parametrize("start", [HEAD + b"Content-Length: 1000\r\n\r\n", CHUNKED, CHUNKED + b"5\r\na"])
async def test_a_slow_body_is_closed(proxy: Proxy, start: bytes) -> None:
    status, answer, is_closed = await proxy.send(start)
    assert (status, is_closed) == (408, True)
    assert "too slowly" in str(answer["error"])
    assert await proxy.is_well()


@pytest.mark.parametrize(
    "block", [b"1\r\na\r\n", b"1;" + b"a" * 100 + b"\r\na\r\n"], ids=["tiny chunks", "chunk extensions"]
)
async def test_wasteful_chunks_are_refused(proxy: Proxy, block: bytes) -> None:
    status, _, is_closed = await proxy.send(CHUNKED, *[block * 4000] * 10)
    assert (status, is_closed) == (400, True)


@pytest.mark.parametrize("start", [b"1;", b"0\r\nX: ", b"0\r\n"], ids=["extension", "trailer", "trailers"])
async def test_endless_chunk_metadata_are_refused(proxy: Proxy, start: bytes) -> None:
    status, _, is_closed = await proxy.send(CHUNKED, start, *[b"a" * 10_000] * 20)
    assert (status, is_closed) == (400, True)


async def test_a_body_without_length_is_bounded(proxy: Proxy) -> None:
    block = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    status, answer, _ = await proxy.send(CHUNKED, *[block] * 17)
    assert status == 413
    assert "1 MiB allowed" in str(answer["error"])
    assert await proxy.is_well()


async def test_a_body_may_not_go_on_long_after_its_response(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_limits, "ANSWERED_BODY_S", 0.2)
    reader, writer = await proxy.connect()
    response = asyncio.create_task(read_response(reader))
    block = b"10000\r\n" + b"a" * 0x10000 + b"\r\n"
    writer.write(CHUNKED)
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10):  # fails if the server never closes the connection
            while True:
                writer.write(block)
                await writer.drain()
                await asyncio.sleep(0.001)
    assert (await response)[0] == 413


@pytest.mark.parametrize("size", [(1 << 20) + 1, 10**30])
async def test_a_declared_length_is_checked_before_the_body_is_read(proxy: Proxy, size: int) -> None:
    status, _, _ = await proxy.send(HEAD + b"Content-Length: %d\r\n\r\n" % size)
    assert status in (413, 400)


async def test_deep_pipelining_is_refused(proxy: Proxy) -> None:
    reader, writer = await proxy.connect()
    with contextlib.suppress(ConnectionError):
        writer.write((GET + b"\r\n") * 10_000)
        await writer.drain()
        received = await asyncio.wait_for(reader.read(), 10)
        assert received.count(b"HTTP/1.1 200") < 100
    assert await proxy.is_well()


async def test_idle_connections_make_room_for_new_ones(proxy: Proxy) -> None:
    connections = [await proxy.connect() for _ in range(30)]
    assert await proxy.is_well()
    assert len(proxy.server.server_state.connections) <= 8
    for _, writer in connections:
        writer.close()


async def test_the_list_of_applications_is_hidden_and_control_headers_are_dropped(proxy: Proxy) -> None:
    status, _, _ = await proxy.send(GET.replace(b"/size", b"/-/routes") + b"\r\n")
    assert status == 404
    names = b"X-Request-Timeout-Seconds: 0\r\nX-Request-Disconnect-Disabled: ?1\r\nServe-Multiplexed-Model-Id: a\r\n"
    _, answer, _ = await proxy.send(GET + names + b"X-Other: a\r\n\r\n")
    assert answer["headers"] == ["host", "x-other"]


async def test_headers_that_are_not_utf8_are_refused(proxy: Proxy) -> None:
    status, _, _ = await proxy.send(GET + b"X: \xff\r\n\r\n")
    assert status == 400


async def test_a_service_without_these_limits_is_detected(proxy: Proxy) -> None:
    assert await asyncio.to_thread(has_proxy_limits, f"http://127.0.0.1:{proxy.port}")
    plain = Served(lambda: Starlette(routes=[Route("/healthz", report_size)]))
    await asyncio.to_thread(plain.start)
    assert not await asyncio.to_thread(has_proxy_limits, plain.url)
    await asyncio.to_thread(plain.stop)
    assert not await asyncio.to_thread(has_proxy_limits, plain.url)
