"""A judge on disk, so that every engine opens it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from flex_judge.alignment.judge_training.omni import put_back
from flex_judge.judges.models.checkpoints import Checkpoint

THINKER = "thinker"
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf", ".index.json")


def save_judge(trainer: Any, checkpoint: Checkpoint, out: Path, whole: bool) -> None:
    """Save a judge as its family is published: with the processors' files, and a thinker back in its Omni; in every
    process.

    Args:
        trainer: transformers' trainer of it.
        checkpoint: what it was tuned out of.
        out: folder, made if it is not there.
        whole: it is a model; else an adapter.
    """
    apart = whole and checkpoint.is_part
    trainer.save_model(str(out / THINKER if apart else out))
    if not trainer.accelerator.is_main_process or not whole:
        return
    if apart:
        put_back(checkpoint.path, out / THINKER, out)
        shutil.rmtree(out / THINKER)
        return
    for file in checkpoint.path.iterdir():
        if file.is_file() and not file.name.endswith(WEIGHTS) and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)
