"""vllm's worker for CPUs, with seeds that survive a prompt's being computed in pieces.

While a prompt is not computed to its end, vllm draws a token all the same, throws it away and sets the request's
generator back by an offset. Generators of a CPU have none, so that a single seeded request ends the engine.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from vllm.v1.worker.cpu_worker import CPUWorker


class SeededWorker(CPUWorker):  # type: ignore[misc]
    """Keeps the generators of such requests out of the draw. Theirs are made with nobody's seed and thrown away."""

    def sample_tokens(self, grammar_output: Any) -> Any:
        if self.use_v2_model_runner:  # vllm's next one, which keeps seeds in another way
            return super().sample_tokens(grammar_output)
        runner: Any = self.model_runner
        generators = runner.input_batch.generators
        unfinished = np.nonzero(runner.discard_request_mask.np[: runner.input_batch.num_reqs])[0].tolist()
        kept = {place: generators.pop(place) for place in unfinished if place in generators}
        try:
            return super().sample_tokens(grammar_output)
        finally:
            generators.update(kept)
