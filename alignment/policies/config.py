"""Configuration of policies, and loading them: this project's engines, an endpoint, or an external package.

A package adds a policy by an entry point of the group `flex_judge.policies`: a name, and a callable that takes a
PolicyConfig and returns a Policy. docs/guides/policies.md has a worked example.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

from flex_judge.alignment.policies.base import Policy
from flex_judge.judges.engines import ENGINES, check_engine, load_engine
from flex_judge.judges.engines.base import REMOTE, EngineConfig
from flex_judge.judges.errors import EngineUnavailableError, UsageError
from flex_judge.judges.media.prepared import MediaLimits
from flex_judge.judges.validation.classes import PositiveFloat, settings_class

if TYPE_CHECKING:
    from flex_judge.alignment.policies.openai import OpenAIPolicy

ENTRY_POINT_GROUP = "flex_judge.policies"
ENDPOINT_ENGINE = "openai"
"""Engine name of a policy behind an OpenAI-compatible endpoint."""


@settings_class
class PolicyConfig(EngineConfig):
    """Policy model, its engine and its resources. Picklable, so that an actor on another node can load the policy.

    `engine` may also be `openai`, an OpenAI-compatible endpoint (chosen by `auto` if there is a `url`), or the name of
    an installed package's policy. For an endpoint, `max_batch` is the maximum number of concurrent requests and
    `stall_s` the seconds without a response after which a request is retried.
    """

    url: str | None = None
    """Address of an endpoint, such as `http://10.0.0.1:8000/v1`."""
    api_key: str | None = field(default=None, repr=False)
    """Source of an endpoint's key: `env:NAME` or a file, read where the policy is loaded. Never the key itself."""
    deadline_s: PositiveFloat = 600.0
    """Time limit of a request to an endpoint in seconds, with all retries and waits."""
    media: MediaLimits | None = None
    """Limits for scaling media of prompts in this project's engines; None for the model family's own limits."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Additional fields of an endpoint's requests, or options of an external policy."""

    @property
    def kind(self) -> str:
        """Engine name; `auto` becomes `openai` if there is a `url`, and otherwise stays `auto`."""
        return ENDPOINT_ENGINE if self.engine == "auto" and self.url is not None else self.engine


def list_policy_names() -> list[str]:
    """List the values of `PolicyConfig.engine`: built-in ones first, then installed packages."""
    built_in = ["auto", *(name for name in ENGINES if name != REMOTE), ENDPOINT_ENGINE]
    return [*built_in, *sorted(name for name in entry_points(group=ENTRY_POINT_GROUP).names if name not in built_in)]


def check_policy(config: PolicyConfig) -> None:
    """Check a configuration without loading a model or connecting to an endpoint.

    Raises:
        EngineUnavailableError: Unknown engine or policy; the message lists the known ones.
        ModelNotFoundError: Unknown model.
        UsageError: The settings contradict each other.
    """
    if config.kind == ENDPOINT_ENGINE:
        if config.url is None:
            raise UsageError("engine openai needs a url: the address of an OpenAI-compatible endpoint")
        _reject_settings(config, ("adapter", "ledger", "media"), "does not apply to an endpoint; set it on its server")
        _make_openai_policy(config)  # checks url and key, but does not connect yet
    elif config.kind == "auto" or config.kind in ENGINES:
        if config.is_remote:
            raise UsageError("a policy at an address has engine openai: give the address as its url (--policy-url)")
        _reject_settings(config, ("url", "api_key", "options"), "is for engine openai or an external policy only")
        check_engine(config)
    else:
        _find_entry_point(config.kind)


def load_policy(config: PolicyConfig) -> Policy:
    """Load the policy that `config` describes.

    Raises:
        UsageError: See `check_policy`; or the object that an external package returned is not a Policy.

    Example:
        >>> policy = load_policy(PolicyConfig("smollm2-135m"))
        >>> completions = await policy.sample([Message("user", "Name a colour.")], Sampling(16, 0.8), range(4))
    """
    check_policy(config)
    if config.kind == ENDPOINT_ENGINE:
        return _make_openai_policy(config)
    if config.kind == "auto" or config.kind in ENGINES:
        from flex_judge.alignment.policies.engine import EnginePolicy

        return EnginePolicy(load_engine(config), config.media)
    policy = _find_entry_point(config.kind).load()(config)
    if not isinstance(policy, Policy):
        raise UsageError(f"policy {config.kind!r}: got a {type(policy).__name__}, which lacks methods of a Policy")
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
        f"engine {name!r} does not exist; choose one of {', '.join(list_policy_names())}; packages add more by an "
        f"entry point of the group {ENTRY_POINT_GROUP}"
    )


def _reject_settings(config: PolicyConfig, names: tuple[str, ...], reason: str) -> None:
    for name in names:
        if getattr(config, name):
            raise UsageError(f"{name} {reason} (engine {config.kind})")
