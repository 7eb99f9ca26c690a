"""`python sharded.py COMMAND ...`: a training command in one of two processes on a CPU, as if each had a GPU.

accelerate spreads weights over processes that have accelerators only; torch itself (FSDP2) and DeepSpeed do it on CPUs
too, over gloo. So accelerate is told that there are some, and everything that follows is real.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType


def pretend() -> None:
    state: Any = PartialState
    if "ACCELERATE_USE_DEEPSPEED" in os.environ:
        state._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_GPU)
        state.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
        return
    begin = state.__init__

    def begun(self: Any, *arguments: Any, **more: Any) -> None:
        begin(self, *arguments, **more)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    state.__init__ = begun


if __name__ == "__main__":
    pretend()
    from flex_judge.experiments.cli import main

    sys.exit(main(sys.argv[1:]))
