"""Settings of the HTTP side: plain data, which loads no web framework."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from flex_judge.judges.errors import UsageError
from flex_judge.reward.types import RewardSpec

MIB = 1 << 20
END_OF_TURN = (
    "<|im_end|>",
    "<|endoftext|>",
    "</s>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_turn>",
    "<eos>",
    "<|end|>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
    "<｜end▁of▁sentence｜>",
    "<pad>",
    "<|pad|>",
)
"""What the common model families end a turn with, or fill up with behind it."""


@dataclass(frozen=True)
class GatewayConfig:
    """What a service takes, from whom, and for how long it works on it."""

    api_key: str | None = field(default=None, repr=False)
    """What every request but /healthz must bring, as `Authorization: Bearer KEY`; None lets everybody in."""
    max_pending: int = 4096
    """Completions and comparisons that are accepted and not yet answered; more are refused with 503."""
    max_items: int = 1024
    """Completions or comparisons in one request."""
    deadline_s: float = 600.0
    """How long a request is worked on: what is not ready by then has status timeout. A request may ask for less."""
    max_body_mib: int = 64
    """Size of one request, and of one medium by URL."""
    max_bodies_mib: int = 1024
    """Size of all requests in hand together."""
    media_store_mib: int = 1024
    """Size of all uploaded media that are kept; those not used for longest go first."""
    max_media: int = 256
    """Media in one comparison or sample; each frame of a video counts."""
    media_hosts: tuple[str, ...] = ()
    """Hosts from which media are fetched by URL: exact names, HTTPS alone. Without any, no URL is taken."""
    rubrics: tuple[str, ...] = ()
    """Files of rubrics that requests may name beside those that come with the project, by the file's name without its
    ending. The files must be where the replicas are, too."""
    retain_s: float = 600.0
    """How long the answer to a request with an Idempotency-Key is kept, for when it is sent again."""
    openrlhf: RewardSpec = field(default_factory=RewardSpec)
    """How the samples of /get_reward are judged. With `group_size`, samples that come one by one are gathered."""
    openrlhf_deadline_s: float = 170.0
    """`deadline_s` for /get_reward; OpenRLHF waits 180 s."""
    end_of_turn: tuple[str, ...] = END_OF_TURN
    """Tokens that are cut from the end of what /get_reward is sent."""

    def __post_init__(self) -> None:
        for name in ("max_pending", "max_items", "max_body_mib", "max_bodies_mib", "media_store_mib", "max_media"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("deadline_s", "openrlhf_deadline_s", "retain_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be seconds above 0, not {getattr(self, name)}")
        for small, large in (("max_items", "max_pending"), ("max_body_mib", "max_bodies_mib")):
            if getattr(self, small) > getattr(self, large):
                raise UsageError(f"{small} must be at most {large}, which is {getattr(self, large)}")
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise UsageError("api_key must be one or more ASCII characters without white space")
        for host in self.media_hosts:
            if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", host):
                raise UsageError(f"media_hosts must be names of hosts in small letters, without scheme, not {host!r}")
        waits_for_groups = self.openrlhf.needs_group and self.openrlhf.group_size is not None
        deadline_s = min(self.openrlhf_deadline_s, self.deadline_s)
        if waits_for_groups and self.openrlhf.group_timeout_s >= deadline_s:
            raise UsageError(
                f"openrlhf.group_timeout_s={self.openrlhf.group_timeout_s:g} leaves nothing of the {deadline_s:g} s "
                "in which /get_reward must answer"
            )
