"""Saving of judges in the form that every engine loads, with the thinker merged back for Qwen2.5-Omni."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from flex_judge.judges.errors import UsageError
from flex_judge.judges.models.checkpoints import Checkpoint

THINKER = "thinker"
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf", ".index.json")


def save_judge(trainer: Any, checkpoint: Checkpoint, out: Path, is_full_model: bool) -> None:
    """Save a judge in the format of its published model family. Call it in every process.

    A full model is saved with the files of its processors. A thinker is merged back into its Qwen2.5-Omni checkpoint.

    Args:
        trainer: Trainer of the judge (transformers).
        checkpoint: Checkpoint of the base model.
        out: Output folder; created if it does not exist.
        is_full_model: Whether a full model was trained, as opposed to an adapter.
    """
    is_thinker = is_full_model and checkpoint.is_part
    trainer.save_model(str(out / THINKER if is_thinker else out))
    if not trainer.accelerator.is_main_process or not is_full_model:
        return
    if is_thinker:
        merge_thinker(checkpoint.path, out / THINKER, out)
        shutil.rmtree(out / THINKER)
        return
    # The trainer saves the tokenizer but no other processor files, such as image settings. Base weights must not end up
    # next to the tuned ones.
    for file in checkpoint.path.iterdir():
        if file.is_file() and not file.name.endswith(WEIGHT_SUFFIXES) and not (out / file.name).exists():
            shutil.copyfile(file, out / file.name)


THINKER_PREFIX = "thinker."
"""Prefix of the thinker's weight names in a Qwen2.5-Omni checkpoint."""


def merge_thinker(base: Path, thinker: Path, out: Path) -> None:
    """Write a copy of a Qwen2.5-Omni checkpoint with the weights of a tuned thinker.

    Only one weight file is in memory at a time.

    Args:
        base: Folder of the checkpoint that the thinker was tuned from.
        thinker: Folder of the tuned thinker, as saved by transformers.
        out: Output folder; created if it does not exist.

    Raises:
        UsageError: The thinker and the checkpoint do not have the same weights.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    tuned_files = _map_weight_files(thinker)
    unused = set(tuned_files)
    for file in sorted(path for path in base.iterdir() if path.is_file()):
        if file.suffix != ".safetensors":
            shutil.copyfile(file, out / file.name)
            continue
        with safe_open(file, framework="pt") as base_weights:
            weights = {}
            for name in base_weights.keys():  # noqa: SIM118
                tensor = base_weights.get_tensor(name)
                if name.startswith(THINKER_PREFIX):
                    tuned_name = name.removeprefix(THINKER_PREFIX)
                    if tuned_name not in tuned_files:
                        raise UsageError(f"{thinker}: weight {tuned_name} is missing; {file} has it")
                    with safe_open(tuned_files[tuned_name], framework="pt") as tuned_weights:
                        # Training may use 32 bits; the checkpoint keeps its own data type.
                        tensor = tuned_weights.get_tensor(tuned_name).to(tensor.dtype).contiguous()
                    unused.discard(tuned_name)
                weights[name] = tensor
        save_file(weights, out / file.name, metadata={"format": "pt"})
    if unused:
        raise UsageError(f"{thinker}: unexpected weight {sorted(unused)[0]}; {base} does not have it")


def _map_weight_files(folder: Path) -> dict[str, Path]:
    """Map the name of every weight of a checkpoint to its file."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in weight_map.items()}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return dict.fromkeys(file.keys(), folder / "model.safetensors")
