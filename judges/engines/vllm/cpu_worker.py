"""CPU worker of vllm that supports seeded requests with chunked prefill.

While a long prompt is computed in chunks, vllm samples a token after each chunk, discards it, and rewinds the request's
random generator by an offset. CPU generators have no offset, so one seeded request would crash the engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from vllm.v1.worker.cpu_worker import CPUWorker


class SeededWorker(CPUWorker):  # type: ignore[misc]
    """Worker that hides the generators of unfinished prompts while sampling; their tokens are discarded anyway."""

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Sample as vllm does, but without advancing the generators of unfinished prompts."""
        if self.use_v2_model_runner:  # vllm's next model runner handles seeds differently
            return super().sample_tokens(grammar_output)
        runner: Any = self.model_runner
        generators = runner.input_batch.generators
        unfinished = np.nonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs])[0].tolist()
        hidden = {index: generators.pop(index) for index in unfinished if index in generators}
        try:
            return super().sample_tokens(grammar_output)
        finally:
            generators.update(hidden)
