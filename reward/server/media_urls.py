"""Media by URL, from the hosts that the operator of a service allows: nothing else is ever asked."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from flex_judge.judges.errors import MediaError
from flex_judge.reward.server.errors import MediaFetchError

if TYPE_CHECKING:
    import httpx

MIB = 1 << 20
MAX_CONCURRENT_FETCHES = 8
FETCH_TIMEOUT_S = 30.0
"""For one medium, from connecting to its last byte."""


class UrlFetcher:
    """Reads files over HTTPS from an allow list of hosts. Without hosts it reads nothing."""

    def __init__(
        self,
        hosts: Collection[str],
        most_bytes: int,
        total_s: float = FETCH_TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Args:
        hosts: exact names, in small letters. A subdomain is another host.
        most_bytes: size of the largest file.
        total_s: how long one file may take.
        transport: where requests go; None is the network.
        """
        self._hosts = frozenset(hosts)
        self._most_bytes = most_bytes
        self._total_s = total_s
        self._transport = transport
        self._room = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)

    async def fetch(self, url: str) -> bytes:
        """The file behind a URL. Redirects are not followed: they would lead past the list.

        Raises:
            MediaError: the URL is not allowed, or there is no such file, or it is too large.
            FetchError: the host did not answer, or not in time, or with an error of its own.
        """
        import httpx

        target = self._check_url(url)
        try:
            # Nothing is unpacked: a small file could become a very large one.
            async with (
                self._room,
                asyncio.timeout(self._total_s),
                httpx.AsyncClient(transport=self._transport, timeout=self._total_s, follow_redirects=False) as client,
                client.stream("GET", target, headers={"Accept-Encoding": "identity"}) as answer,
            ):
                if answer.status_code >= 500 or answer.status_code == 429:
                    raise MediaFetchError(f"{target.host} answered {answer.status_code}")
                if answer.status_code != 200:
                    redirect = "; redirects are not followed" if answer.is_redirect else ""
                    raise MediaError(f"{target.host} answered {answer.status_code}{redirect}")
                if answer.headers.get("Content-Encoding", "identity") != "identity":
                    raise MediaError(f"{target.host} sends it compressed, which is not taken")
                data = bytearray()
                async for chunk in answer.aiter_raw():
                    data += chunk
                    if len(data) > self._most_bytes:
                        most = self._most_bytes / MIB
                        raise MediaError(f"more than the {most:.1f} MiB that a file by URL may have")
                return bytes(data)
        except TimeoutError as e:
            raise MediaFetchError(f"{target.host} took longer than {self._total_s:g} s") from e
        except httpx.HTTPError as e:
            raise MediaFetchError(f"{target.host} did not answer ({type(e).__name__})") from e

    def _check_url(self, url: str) -> httpx.URL:
        import httpx

        if not self._hosts:
            raise MediaError("media by URL are off at this service; send a data URI, or upload them")
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError) as e:
            raise MediaError(f"not a URL: {e}") from e
        # What is looked at here is what is asked for: the same object, so no second reading of the text can differ.
        if target.scheme != "https" or target.userinfo or target.port not in (None, 443):
            raise MediaError("expected a URL that begins with https://, without a user and a port")
        if target.host not in self._hosts:
            raise MediaError(f"host {target.host[:100]!r} is not on this service's list of media hosts")
        return target
