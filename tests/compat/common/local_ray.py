"""Ray for drivers: a cluster of this process alone, also on a busy machine."""

from __future__ import annotations

import ray

ATTEMPTS = 3


def start_ray(num_cpus: int) -> None:
    """Start Ray without a dashboard. On a busy machine its node may miss the 30 s that it has to start."""
    for attempt in range(ATTEMPTS):
        try:
            # "local": not the cluster of another process that happens to run on this machine.
            ray.init(
                "local",
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=100 << 20,
            )
            return
        except Exception:  # the class that Ray raises here
            ray.shutdown()
            if attempt == ATTEMPTS - 1:
                raise
