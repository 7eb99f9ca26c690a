"""Probe of a server: its models, and whether it can judge with token ids. Sends a few requests and waits for them.

The level `tokens` needs prompts as token ids, the ids of generated tokens, a grammar, and log-probabilities of given
tokens after the grammar and before temperature. Each is tried, because servers ignore fields that they do not know.
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flex_judge.judges.engines.base import EngineConfig, Generation, Sampling
from flex_judge.judges.engines.remote.address import ServedModel
from flex_judge.judges.engines.remote.messages import build_rejection, build_request, read_generation, summarize_error
from flex_judge.judges.errors import (
    AccessError,
    EngineUnavailableError,
    GenerationError,
    ServiceUnavailableError,
    UsageError,
)
from flex_judge.judges.io.http import Backoff, describe_no_response, parse_retry_after, read_key

if TYPE_CHECKING:
    import httpx

PROBE_TIMEOUT_S = 60.0  # the first request may compile kernels and a grammar
CONNECT_TIMEOUT_S = 5.0
MAX_TRIES = 4
TRANSIENT_STATUSES = {429, 502, 503, 504}
TOLERANCE = 0.05  # of a probability; half precision and other requests of a batch change the last digits
TEXT = (
    "Plain text, digits 1234567 and 3.14, a tab\tand  two spaces.\n\nDéjà vu, naïve, Größe, 日本語, Привет, 🙂 {}[]<>"
)
"""Text on which two tokenizers of different models differ."""


@dataclass(frozen=True)
class ServerModel:
    """Description of a model by its server."""

    url: str
    """Base URL of the server's API."""
    name: str
    """Name of the model at the server."""
    root: str
    """Folder or hub id of its weights, as the server names it; empty if it does not."""
    base: str
    """The same for the model that a LoRA adapter is for; `root` for other models."""
    max_model_len: int | None
    """Context length in tokens; None if the server does not tell it."""
    software: str
    """Name and version of the server, such as `vllm 0.32.0`; empty if it does not tell them."""


class ServerProbe:
    """Blocking client of a server, for the time before a judge starts.

    Example:
        >>> with ServerProbe(EngineConfig("http://127.0.0.1:8000/v1#judge")) as probe:
        ...     model = probe.find_model()
    """

    def __init__(self, config: EngineConfig) -> None:
        """Open a client.

        Args:
            config: configuration whose model is the address of a served model.

        Raises:
            UsageError: the address or the source of the key is invalid.
        """
        import httpx

        self._config = config
        self.address = ServedModel.parse(config.model)
        self.key = read_key(config.model_key) if config.model_key is not None else None
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx.Timeout(PROBE_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
        )

    def __enter__(self) -> ServerProbe:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def find_model(self) -> ServerModel:
        """Find the model of the address in the server's list.

        Raises:
            ServiceUnavailableError: the server does not answer.
            AccessError: it rejects the key, has no list of models, or has no such model.
        """
        url, name = self.address.url, self.address.name
        body = self._send("GET", f"{url}/models")
        try:
            cards = {str(card["id"]): card for card in body["data"]}
        except (KeyError, TypeError) as e:
            raise AccessError(
                f"{url}: /models is no list of models; name the API's base URL, as http://HOST:PORT/v1"
            ) from e
        bases = [card_name for card_name, card in cards.items() if not card.get("parent")]
        if not name and len(bases) == 1:
            name = bases[0]
        if name not in cards:
            problem = f"has no model {name!r}" if name else "has several models"
            raise AccessError(f"{url}: the server {problem}; choose one of {', '.join(cards)}, as {url}#NAME")
        card = cards[name]
        base = cards.get(str(card.get("parent")), card)
        length = card.get("max_model_len") or base.get("max_model_len")
        return ServerModel(
            url=url,
            name=name,
            root=str(card.get("root") or ""),
            base=str(base.get("root") or ""),
            max_model_len=length if isinstance(length, int) else None,
            software=self._find_software(str(base.get("owned_by") or "")),
        )

    def name_tokenizer(self, model: ServerModel) -> str:
        """Return the folder or hub id of the tokenizer: the configured one, or the model that the server names.

        Raises:
            UsageError: there is neither.
        """
        if not (name := self._config.model_tokenizer or model.base):
            raise UsageError(
                f"{model.url}: the server does not name its model; name a tokenizer with --model-tokenizer"
            )
        return name

    def check_tokenizer(self, model: ServerModel, tokenizer: Any, source: str) -> None:
        """Check that a tokenizer is the one of the served model, by encoding the same text with both.

        Args:
            model: the served model.
            tokenizer: transformers tokenizer.
            source: where it comes from, for the message.

        Raises:
            UsageError: the two encode the text differently.
            EngineUnavailableError: the server does not tell the token ids.
        """
        text = TEXT + "".join(sorted(tokenizer.get_added_vocab())[:256])
        expected = tokenizer.encode(text, add_special_tokens=False)
        request = build_request(model.name, expected, Sampling(max_tokens=1)) | {"prompt": text}
        body = self._complete(request | {"add_special_tokens": False})
        try:
            actual = body["choices"][0]["prompt_token_ids"]
        except (KeyError, TypeError, IndexError):
            actual = None
        if not isinstance(actual, list):
            raise self._build_missing_error("token ids of prompt and reply (return_token_ids)")
        if actual != expected:
            raise UsageError(
                f"tokenizer {source}: encodes text differently from {model.name!r} at {model.url}, so it is not the "
                "tokenizer of the served model; name that one with --model-tokenizer"
            )

    def check_token_level(self, model: ServerModel, tokenizer: Any) -> None:
        """Check that the server judges with token ids, see the module.

        Raises:
            EngineUnavailableError: something is missing; the message says what.
        """
        digits = {str(digit): tokenizer.encode(str(digit), add_special_tokens=False) for digit in range(10)}
        single = {digit: ids[0] for digit, ids in digits.items() if len(ids) == 1}
        prompt = tokenizer.encode("Some digits: 3, 7, 2, 9,", add_special_tokens=False)
        greedy = Sampling(max_tokens=1, regex=f"(?:{'|'.join(single)})", logprob_token_ids=tuple(single.values()))
        cold, hot = (self._generate(model, prompt, replace(greedy, temperature=t), tokenizer) for t in (0.0, 2.0))
        for generation in (cold, hot):
            if not re.fullmatch(greedy.regex or "", generation.text):
                raise self._build_missing_error("a grammar for the reply (structured_outputs)")
        shares = [[math.exp(generation.logprobs[0][token]) for token in single.values()] for generation in (cold, hot)]
        if abs(sum(shares[0]) - 1.0) > TOLERANCE:
            raise self._build_missing_error("log-probabilities after the grammar (--logprobs-mode raw_logprobs)")
        if max(abs(a - b) for a, b in zip(*shares, strict=True)) > TOLERANCE:
            raise self._build_missing_error("log-probabilities before temperature (--logprobs-mode raw_logprobs)")

    def _generate(self, model: ServerModel, prompt: list[int], sampling: Sampling, tokenizer: Any) -> Generation:
        try:
            body = self._complete(build_request(model.name, prompt, sampling))
            # The caller checks the grammar, to name it as what is missing.
            return read_generation(body, replace(sampling, regex=None), prompt, tokenizer)
        except GenerationError as e:
            raise self._build_missing_error(
                f"completions with token ids and log-probabilities of given tokens: {e}"
            ) from e

    def _complete(self, request: dict[str, Any]) -> Any:
        try:
            return self._send("POST", f"{self.address.url}/completions", request)
        except AccessError:
            raise
        except UsageError as e:
            raise self._build_missing_error(f"completions with token ids: {e}") from e

    def _build_missing_error(self, missing: str) -> EngineUnavailableError:
        return EngineUnavailableError(
            f"{self.address.url}: the server cannot judge with token ids, it lacks {missing}; serve the model with "
            "`vllm serve` (0.32)"
        )

    def _find_software(self, owner: str) -> str:
        """Return name and version of the server, for provenance only."""
        import httpx

        try:
            version = self._http.get(f"{self.address.root_url}/version").json()["version"]
        except (httpx.RequestError, ValueError, TypeError, KeyError):  # a server without this route may answer anything
            return owner
        return f"{owner} {version}".strip()[:80]

    def _send(self, method: str, url: str, body: dict[str, Any] | None = None) -> Any:
        """Send a request, again if the server is busy, and return the JSON of the response."""
        import httpx

        backoff, problem = Backoff(1.0, 8.0), ""
        for _ in range(MAX_TRIES):
            try:
                response = self._http.request(method, url, json=body)
            except httpx.RequestError as e:
                raise ServiceUnavailableError(
                    f"{self.address.url}: {describe_no_response(e)}; check that the server is running"
                ) from e
            if response.status_code not in TRANSIENT_STATUSES:
                return self._read_json(response)
            problem = f"{response.status_code}: {summarize_error(response, self.key)}"
            time.sleep(backoff.next_delay(min(8.0, parse_retry_after(response.headers.get("Retry-After")))))
        raise ServiceUnavailableError(f"{self.address.url}: {problem}; {MAX_TRIES} tries failed")

    def _read_json(self, response: httpx.Response) -> Any:
        if response.status_code >= 500:
            message = summarize_error(response, self.key)
            raise ServiceUnavailableError(
                f"{self.address.url}: {response.status_code}: {message}; see the server's log"
            )
        if not response.is_success:
            error = build_rejection(response, self.key)
            raise type(error)(f"{self.address.url}: {error}")
        try:
            return response.json()
        except ValueError as e:
            raise AccessError(
                f"{self.address.url}: expected JSON, got {response.text!r:.80}; is this the address of a model server?"
            ) from e


def check_server(config: EngineConfig) -> ServerModel:
    """Check in seconds that a remote model can be reached, without its tokenizer.

    Raises:
        ServiceUnavailableError: the server does not answer.
        UsageError: the address, the key, the name or another setting is wrong.
    """
    check_settings(config)
    with ServerProbe(config) as probe:
        return probe.find_model()


def name_tokenizer(config: EngineConfig) -> str:
    """Return the model whose tokenizer a remote model has: the configured one, or the one that the server names.

    Raises:
        JudgeError: the server does not answer, or does not name one, see `check_server`.
    """
    with ServerProbe(config) as probe:
        return probe.name_tokenizer(probe.find_model())


def check_settings(config: EngineConfig) -> None:
    """Check that no setting of an engine on this machine is given for a remote model.

    Raises:
        UsageError: there is such a setting.
    """
    if config.adapter is not None or config.max_adapter_rank:
        name = "max_adapter_rank" if config.adapter is None else f"adapter {config.adapter!r}"
        raise UsageError(
            f"{name}: a remote model gets its adapter from its server; serve it there (vllm serve --lora-modules) and "
            "give its name in the address"
        )
    if config.engine_arg:
        raise UsageError.of_setting(
            "engine_arg", "engine arguments: a remote model has those of its server; set them there"
        )
