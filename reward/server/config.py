"""Settings of the HTTP side: plain data, free of any web framework."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.validation.classes import Metavar, NonNegativeFloat, PositiveFloat, PositiveInt, settings_class
from flex_judge.judges.validation.flat import SettingsSection
from flex_judge.reward.client.api_key import hash_keys
from flex_judge.reward.integrations.end_of_turn import END_OF_TURN
from flex_judge.reward.types import RewardSpec

MIB = 1 << 20


@settings_class
class GatewayConfig:
    """Limits of the HTTP side: accepted requests, clients, sizes, and time limits."""

    api_key: str | None = field(default=None, repr=False)
    """Key that every request but /healthz must send as `Authorization: Bearer KEY`; None accepts all requests. Several
    keys are lines `NAME:KEY`; the access log shows the name. Only the hashes `sha256:HEX` of keys are stored."""
    max_pending: PositiveInt = 4096
    """Maximum number of accepted and unanswered completions; more get status 503."""
    max_items: PositiveInt = 1024
    """Maximum number of completions or comparisons in one request."""
    deadline_s: PositiveFloat = 600.0
    """Time limit of a request in seconds; comparisons that are not ready by then have status timeout. A request may ask
    for less."""
    max_body_mib: PositiveInt = 64
    """Maximum size of one request, and of one medium by URL, in MiB."""
    max_text_mib: PositiveInt = 16
    """Maximum size of one request in MiB without its media in data URIs."""
    max_bodies_mib: PositiveInt = 1024
    """Maximum total size of all requests in progress, in MiB."""
    media_store_mib: PositiveInt = 1024
    """Memory for uploaded media in MiB; the least recently used are evicted first."""
    max_media: PositiveInt = 256
    """Maximum number of media in one comparison; each video frame counts."""
    media_hosts: Annotated[tuple[str, ...], Metavar("HOST")] = ()
    """Host that media URLs may name: exact name, HTTPS only; may be repeated. Without it, nothing is
    fetched."""
    rubrics: Annotated[tuple[str, ...], Metavar("FILE")] = ()
    """Rubric file that requests may name by its stem, next to the presets. The file must exist where the replicas
    are."""
    allow_inline_rubrics: bool = False
    """Whether requests may bring rubrics of their own, at most 256 different ones of 16 KiB each. Clients then use
    rubric files that the service does not have."""
    allow_adapter_updates: Annotated[str, Metavar("FOLDER")] | None = None
    """Folder with LoRA adapters that clients may put in the place of the judge's with PUT /v1/adapters. It must exist
    where the replicas are; max_adapter_rank is then 64 unless it is set."""
    wake_on_request: bool = False
    """Wake a judge that was put to sleep (allow_sleep) when a request for judgments arrives; by default such requests
    get status 503 until POST /v1/wake."""
    retain_s: PositiveFloat = 600.0
    """Seconds that the answer to a request with an Idempotency-Key is kept for a retry."""
    disconnect_grace_s: NonNegativeFloat = 30.0
    """Seconds that the work of a request with an Idempotency-Key continues after its client disconnected, so that a
    retry gets the answer. After them, and without a key at once, the work is cancelled."""
    openrlhf: Annotated[RewardSpec, SettingsSection("rewards of /get_reward (OpenRLHF) and /rm (slime)")] = field(
        default_factory=RewardSpec
    )
    """How the samples of /get_reward and /rm are judged. With `group_size`, samples of several requests are
    grouped."""
    openrlhf_deadline_s: PositiveFloat = 170.0
    """Time limit of /get_reward in seconds; OpenRLHF waits 180 s. For /rm it is at most 110 s, because slime waits
    120 s."""
    end_of_turn: Annotated[tuple[str, ...], Metavar("TOKEN")] = END_OF_TURN
    """Token that is cut from the end of the texts that /get_reward and /rm receive; may be repeated."""

    @classmethod
    def complete_values(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Adapt the defaults of `max_items` and `max_bodies_mib` to the limits that are set.

        Otherwise a user who changes `max_pending` or `max_body_mib` would have to set a second option too.
        """
        defaults = {
            "max_items": min(cls.max_items, values.get("max_pending", cls.max_pending)),
            "max_bodies_mib": max(cls.max_bodies_mib, values.get("max_body_mib", cls.max_body_mib)),
        }
        return {**defaults, **values}

    def __post_init__(self) -> None:
        for small, large in (("max_items", "max_pending"), ("max_body_mib", "max_bodies_mib")):
            if getattr(self, small) > getattr(self, large):
                raise UsageError(f"{small} must be at most {large}, which is {getattr(self, large)}")
        if self.api_key is not None and not re.fullmatch(r"[!-~]+(\n[!-~]+)*", self.api_key):
            raise UsageError("api_key must be one or more ASCII characters without white space")
        if self.api_key is not None:
            object.__setattr__(self, "api_key", hash_keys(self.api_key))  # the cluster must not hold the key itself
        folder = self.allow_adapter_updates
        if folder is not None and (not folder.startswith("/") or posixpath.normpath(folder).strip("/") == ""):
            raise UsageError(f"allow_adapter_updates must be the absolute path of a folder below /, not {folder!r}")
        for host in self.media_hosts:
            if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", host):
                raise UsageError(f"media_hosts must be host names in lower case, without scheme, not {host!r}")
        waits_for_groups = self.openrlhf.needs_group and self.openrlhf.group_size is not None
        deadline_s = min(self.openrlhf_deadline_s, self.deadline_s)
        if waits_for_groups and self.openrlhf.group_timeout_s >= deadline_s:
            raise UsageError(
                f"openrlhf.group_timeout_s={self.openrlhf.group_timeout_s:g} must be below the {deadline_s:g} s time "
                "limit of /get_reward"
            )
