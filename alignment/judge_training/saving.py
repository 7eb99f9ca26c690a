"""Save a judge so that every engine opens it; put a tuned thinker back into its Qwen2.5-Omni checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.checkpoints import Checkpoint

THINKER = "thinker"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf", ".index.json")


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
        merge_thinker(checkpoint.path, out / THINKER, out)
        shutil.rmtree(out / THINKER)
        return
    for file in checkpoint.path.iterdir():
        if file.is_file() and not file.name.endswith(WEIGHT_SUFFIXES) and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)


THINKER_PREFIX = "thinker."
"""What the names of the thinker's weights begin with in a whole checkpoint."""


def merge_thinker(whole: Path, thinker: Path, out: Path) -> None:
    """Write a whole checkpoint: its files as they are in `whole`, the thinker's weights as in `thinker`. One file of
    weights is in memory at a time.

    Args:
        whole: folder of the checkpoint that the thinker was tuned out of.
        thinker: folder of the tuned thinker, as transformers saves one.
        out: folder, made if it is not there.

    Raises:
        UsageError: the two have not the same weights.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    places = _map_weight_files(thinker)
    left = set(places)
    for file in sorted(p for p in whole.iterdir() if p.is_file()):
        if file.suffix != ".safetensors":
            shutil.copyfile(file, out / file.name)
            continue
        with safe_open(file, framework="pt") as old:
            weights = {}
            for name in old.keys():  # noqa: SIM118
                tensor = old.get_tensor(name)
                if name.startswith(THINKER_PREFIX):
                    inner = name.removeprefix(THINKER_PREFIX)
                    if inner not in places:
                        raise UsageError(f"{thinker}: has no {inner}, which {file} has")
                    with safe_open(places[inner], framework="pt") as new:
                        tensor = new.get_tensor(inner).to(tensor.dtype).contiguous()
                    left.discard(inner)
                weights[name] = tensor
        save_file(weights, out / file.name, metadata={"format": "pt"})
    if left:
        raise UsageError(f"{thinker}: has {sorted(left)[0]}, which {whole} has not")


def _map_weight_files(folder: Path) -> dict[str, Path]:
    """Name of every weight of a checkpoint -> the file that it is in."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in found.items()}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return dict.fromkeys(file.keys(), folder / "model.safetensors")
