"""Run a training command in one of two CPU processes as if each had a GPU: `python sharded.py COMMAND ...`.

accelerate shards weights over processes with accelerators only. torch (FSDP2) and DeepSpeed also shard on CPUs, over
gloo. So this script makes accelerate believe that there are accelerators; everything else is real.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType


def fake_accelerators() -> None:
    """Make accelerate treat every process as one with an accelerator."""
    state: Any = PartialState
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        state._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
        state.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
        return
    original_init = state.__init__

    def patched_init(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    state.__init__ = patched_init


if __name__ == "__main__":
    fake_accelerators()
    from flex_judge.experiments.cli import main

    sys.exit(main(sys.argv[1:]))
