"""Which policy, as plain data, and what makes it: our engines, an endpoint, or an outside package.

A package adds a policy by an entry point of the group `flex_judge.policies`: a name, and a callable that takes a
PolicyConfig and returns a Policy. docs/policies.md has a worked example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.policies.base import Policy
from flex_judge.judges.engines import ENGINES, load_engine, resolve_engine
from flex_judge.judges.engines.base import EngineConfig
from flex_judge.judges.errors import EngineUnavailableError, UsageError
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.models import check_model
from flex_judge.judges.validation.classes import PositiveFloat, settings_class

if TYPE_CHECKING:
    from flex_judge.alignment.policies.openai import OpenAIPolicy

ENTRY_POINT_GROUP = "flex_judge.policies"
ENDPOINT_ENGINE = "openai"


@settings_class
class PolicyConfig(EngineConfig):
    """Which model is sampled, where, and with how much of the machine; plain and picklable, so that an actor elsewhere
    can make the policy.

    `engine` may also be `openai`, an OpenAI-compatible endpoint (which `auto` is too where there is a `url`), or the
    name of an installed package's policy. Of an endpoint, `max_batch` is the requests under way at a time, and
    `stall_s` the seconds without an answer after which one is repeated.
    """

    url: str | None = None
    """Address of an endpoint, such as `http://10.0.0.1:8000/v1`."""
    api_key: str | None = field(default=None, repr=False)
    """Key of an endpoint: `env:NAME` or a file, read where the policy is made. Never the key itself."""
    deadline_s: PositiveFloat = 600.0
    """Time limit of a request to an endpoint in seconds, with all retries and waits."""
    media: MediaLimits | None = None
    """How media of prompts are scaled in our engines, where that is to differ from the model family's own limits."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of an endpoint's requests, or what an outside policy makes of them."""

    @property
    def kind(self) -> str:
        """`openai`, `auto` or another name of ours, or the name of an outside policy."""
        return ENDPOINT_ENGINE if self.engine == "auto" and self.url is not None else self.engine


def list_policy_names() -> list[str]:
    """What `PolicyConfig.engine` may be: ours first, then those of installed packages."""
    ours = ["auto", *ENGINES, ENDPOINT_ENGINE]
    return [*ours, *sorted(name for name in entry_points(group=ENTRY_POINT_GROUP).names if name not in ours)]


def check_policy(config: PolicyConfig) -> None:
    """Raise what is wrong with a configuration, without loading a model or asking an endpoint.

    Raises:
        EngineUnavailableError: no such engine or policy; the message lists those there are.
        ModelNotFoundError: no such model.
        UsageError: settings that do not belong together.
    """
    if config.kind == ENDPOINT_ENGINE:
        if config.url is None:
            raise UsageError("engine openai needs a url: the address of an OpenAI-compatible endpoint")
        _reject_settings(
            config, ("adapter", "ledger", "media"), "an endpoint's policy takes none; it is its server's affair"
        )
        _make_openai_policy(config)  # looks at url and key, and connects to nothing yet
    elif config.kind == "auto" or config.kind in ENGINES:
        _reject_settings(config, ("url", "api_key", "options"), "is for engine openai or an outside policy")
        if resolve_engine(config.engine) in ("vllm", "transformers"):
            check_model(config.model)
    else:
        _find_entry_point(config.kind)


def load_policy(config: PolicyConfig) -> Policy:
    """Make the policy of `config`; loads its model.

    Raises:
        UsageError: as `check_policy`; or an outside policy is none.
    """
    check_policy(config)
    if config.kind == ENDPOINT_ENGINE:
        return _make_openai_policy(config)
    if config.kind == "auto" or config.kind in ENGINES:
        from flex_judge.alignment.policies.engine import EnginePolicy

        return EnginePolicy(load_engine(config), config.media)
    policy = _find_entry_point(config.kind).load()(config)
    if not isinstance(policy, Policy):
        raise UsageError(f"policy {config.kind!r}: made a {type(policy).__name__}, which lacks methods of a Policy")
    return policy


def _make_openai_policy(config: PolicyConfig) -> OpenAIPolicy:
    from flex_judge.alignment.policies.openai import OpenAIPolicy

    assert config.url is not None
    return OpenAIPolicy(
        config.url,
        config.model,
        config.api_key,
        concurrency=config.max_batch,
        attempt_s=config.stall_s,
        deadline_s=config.deadline_s,
        extra=config.options,
    )


def _find_entry_point(name: str) -> EntryPoint:
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == name:
            return entry
    raise EngineUnavailableError(
        f"engine {name!r} does not exist; there are {', '.join(list_policy_names())}; others come with packages that have "
        f"an entry point of the group {ENTRY_POINT_GROUP}"
    )


def _reject_settings(config: PolicyConfig, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(config, name):
            raise UsageError(f"{name} {why} (engine {config.engine})")
