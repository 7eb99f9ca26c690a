"""Fetch media by URL, only from hosts that the operator of a service allows."""

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
"""Time limit of one file, from connecting to the last byte."""


class UrlFetcher:
    """Fetcher of files over HTTPS from an allowlist of hosts. Without hosts it fetches nothing."""

    def __init__(
        self,
        hosts: Collection[str],
        max_bytes: int,
        timeout_s: float = FETCH_TIMEOUT_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """Create a fetcher.

        Args:
            hosts: exact host names in lower case. Subdomains are not included.
            max_bytes: maximum size of a file.
            timeout_s: time limit of one file in seconds.
            transport: transport of the requests; None uses the network.
        """
        self._hosts = frozenset(hosts)
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._transport = transport
        self._slots = asyncio.Semaphore(MAX_CONCURRENT_FETCHES)

    async def fetch(self, url: str) -> bytes:
        """Fetch a file.

        Raises:
            MediaError: the URL is not allowed, or the file does not exist or is too large.
            MediaFetchError: the host did not respond in time, or responded with a temporary error.
        """
        import httpx

        target = self._check_url(url)
        try:
            async with (
                self._slots,
                asyncio.timeout(self._timeout_s),
                # A redirect could lead to a host that is not on the allowlist, so none is followed.
                httpx.AsyncClient(transport=self._transport, timeout=self._timeout_s, follow_redirects=False) as client,
                # Compressed responses are refused, because a small one could expand to a very large file.
                client.stream("GET", target, headers={"Accept-Encoding": "identity"}) as response,
            ):
                if response.status_code >= 500 or response.status_code == 429:
                    raise MediaFetchError(f"{target.host} answered {response.status_code}")
                if response.status_code != 200:
                    redirect = "; redirects are not followed" if response.is_redirect else ""
                    raise MediaError(f"{target.host} answered {response.status_code}{redirect}")
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise MediaError(f"{target.host} sends it compressed; expected an uncompressed file")
                data = bytearray()
                # Content-Length may be missing or wrong, so the received bytes are counted.
                async for chunk in response.aiter_raw():
                    data += chunk
                    if len(data) > self._max_bytes:
                        limit = self._max_bytes / MIB
                        raise MediaError(f"larger than the {limit:.1f} MiB allowed for a file by URL")
                return bytes(data)
        except TimeoutError as e:
            raise MediaFetchError(f"{target.host} took longer than {self._timeout_s:g} s") from e
        except httpx.HTTPError as e:
            raise MediaFetchError(f"{target.host} did not answer ({type(e).__name__})") from e

    def _check_url(self, url: str) -> httpx.URL:
        """Parse a URL and check it against the allowlist."""
        import httpx

        if not self._hosts:
            raise MediaError("media by URL are disabled in this service; send a data URI, or upload the file")
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError) as e:
            raise MediaError(f"not a URL: {e}") from e
        # The request uses this parsed object, so a second parser cannot read another host from the same text.
        if target.scheme != "https" or target.userinfo or target.port not in (None, 443):
            raise MediaError("expected a URL that begins with https://, without a user and a port")
        if target.host not in self._hosts:
            raise MediaError(f"host {target.host[:100]!r} is not on this service's list of media hosts")
        return target
