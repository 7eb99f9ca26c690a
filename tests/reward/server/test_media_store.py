"""Uploaded media, and media by URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from clips import film, noise, picture, tone, wav

from flex_judge.judges.errors import MediaError, RequestTooLargeError
from flex_judge.judges.media.opening import make_audio, make_image, make_video
from flex_judge.judges.media.types import Media, Modality
from flex_judge.reward.server.errors import MediaFetchError
from flex_judge.reward.server.media_store import MediaStore
from flex_judge.reward.server.media_urls import UrlFetcher

IMAGES = [make_image(picture(noise(8, 8 + i))) for i in range(4)]


def put(store: MediaStore, medium: Media) -> Media:
    return store.put(medium.modality, medium.digest, medium.data)


@pytest.mark.parametrize(
    "medium", [IMAGES[0], make_audio(wav(tone(0.1))), make_video(film(range(0, 100, 20)))], ids=str
)
def test_finds_uploads_by_digest(medium: Media) -> None:
    store = MediaStore(1 << 20)
    put(store, medium)
    assert store.get(medium.digest) == medium
    assert store.get("0" * 64) is None
    assert (len(store), store.bytes, store.uploads, store.hits, store.misses) == (1, len(medium.data), 1, 1, 1)


def test_stores_equal_media_once() -> None:
    store = MediaStore(1 << 20)
    assert put(store, IMAGES[0]) is put(store, IMAGES[0])
    assert (len(store), store.bytes, store.uploads) == (1, len(IMAGES[0].data), 1)


def test_evicts_the_least_recently_used_medium() -> None:
    a, b, c, d = sorted(IMAGES, key=lambda medium: len(medium.data))
    store = MediaStore(sum(len(medium.data) for medium in (a, c, d)))
    for medium in (a, b, c):
        put(store, medium)
    store.get(a.digest)
    put(store, d)
    assert [medium for medium in (a, b, c, d) if store.get(medium.digest)] == [a, c, d]
    assert store.evicted == 1
    assert store.bytes == store.max_bytes


def test_rejects_content_with_another_digest() -> None:
    store = MediaStore(1 << 20)
    with pytest.raises(MediaError, match=f"its digest is {IMAGES[1].digest}, not {IMAGES[0].digest}"):
        store.put(Modality.IMAGE, IMAGES[0].digest, IMAGES[1].data)
    with pytest.raises(MediaError, match="its digest is"):  # a video with the same bytes has another digest
        store.put(Modality.VIDEO, IMAGES[0].digest, IMAGES[0].data)
    assert len(store) == 0


@pytest.mark.parametrize("modality", [Modality.IMAGE, Modality.VIDEO, Modality.AUDIO])
@pytest.mark.parametrize("data", [b"", b"/etc/passwd", b"no medium" * 100])
def test_rejects_content_that_cannot_be_opened(modality: Modality, data: bytes) -> None:
    store = MediaStore(1 << 20)
    with pytest.raises(MediaError):
        store.put(modality, Media(modality, data, "").digest, data)
    assert len(store) == 0


def test_rejects_a_medium_larger_than_the_store() -> None:
    with pytest.raises(RequestTooLargeError, match="are more than"):
        put(MediaStore(10), IMAGES[0])


def make_fetcher(answer: Any, hosts: tuple[str, ...] = ("media.test",), **options: Any) -> UrlFetcher:
    options = {"max_bytes": 1000, "timeout_s": 0.2} | options
    return UrlFetcher(hosts, transport=httpx.MockTransport(answer), **options)


async def test_fetches_a_file_from_an_allowed_host() -> None:
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(200, stream=httpx.ByteStream(b"abc"))

    assert await make_fetcher(answer).fetch("https://media.test/a?b=c") == b"abc"
    assert await make_fetcher(answer).fetch("https://MEDIA.test:443/a") == b"abc"
    assert [str(request.url) for request in requests] == ["https://media.test/a?b=c", "https://media.test/a"]
    assert requests[0].headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize(
    "url",
    [
        "http://media.test/a",
        "https://other.test/a",
        "https://sub.media.test/a",
        "https://media.test.evil.test/a",
        "https://media.test:8443/a",
        "https://media.test@evil.test/a",
        "https://user:key@media.test/a",
        "https://evil.test\\@media.test/a",
        "https://127.0.0.1/a",
        "https://[::1]/a",
        "file:///etc/passwd",
        "//media.test/a",
        "media.test/a",
        "/etc/passwd",
        "",
        "https://",
        "https://media.test\n/a",
        "https://\ud83d.test/",
        "https://media.test:99999/",
        "ftp://media.test/a",
    ],
)
async def test_sends_no_request_for_disallowed_urls(url: str) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise AssertionError(f"{request.url} was requested")

    with pytest.raises(MediaError):
        await make_fetcher(answer).fetch(url)


async def test_rejects_all_urls_without_allowed_hosts() -> None:
    with pytest.raises(MediaError, match="disabled in this service"):
        await make_fetcher(None, hosts=()).fetch("https://media.test/a")


async def test_does_not_follow_redirects() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.host == "media.test"
        return httpx.Response(302, headers={"Location": "https://evil.test/"})

    with pytest.raises(MediaError, match="answered 302; redirects are not followed"):
        await make_fetcher(answer).fetch("https://media.test/a")


async def test_aborts_a_download_that_is_too_large() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 100
            yield b"x" * 100

    with pytest.raises(MediaError, match="larger than the"):
        await make_fetcher(lambda _: httpx.Response(200, content=endless())).fetch("https://media.test/a")
    assert sent <= 1200


async def test_rejects_compressed_responses() -> None:
    packed = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"x"))
    with pytest.raises(MediaError, match="compressed"):
        await make_fetcher(lambda _: packed).fetch("https://media.test/a")


async def test_reports_temporary_and_permanent_host_failures() -> None:
    async def slow(_: httpx.Request) -> httpx.Response:
        await asyncio.sleep(10)
        return httpx.Response(200)

    def broken(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("no route")

    for answer, problem in (
        (slow, "took longer than 0.2 s"),
        (broken, r"did not answer \(ConnectError\)"),
        (lambda _: httpx.Response(503), "answered 503"),
    ):
        with pytest.raises(MediaFetchError, match=problem):
            await make_fetcher(answer).fetch("https://media.test/a")
    with pytest.raises(MediaError, match="answered 404"):
        await make_fetcher(lambda _: httpx.Response(404)).fetch("https://media.test/a")
