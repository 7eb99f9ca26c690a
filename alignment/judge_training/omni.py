"""A tuned thinker back in its Qwen2.5-Omni: the whole checkpoint, with the thinker's weights for the old ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from flex_judge.judges.errors import UsageError

PREFIX = "thinker."
"""What the names of the thinker's weights begin with in a whole checkpoint."""


def put_back(whole: Path, thinker: Path, out: Path) -> None:
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
    places = _places(thinker)
    left = set(places)
    for file in sorted(p for p in whole.iterdir() if p.is_file()):
        if file.suffix != ".safetensors":
            shutil.copyfile(file, out / file.name)
            continue
        with safe_open(file, framework="pt") as old:
            weights = {}
            for name in old.keys():  # noqa: SIM118
                tensor = old.get_tensor(name)
                if name.startswith(PREFIX):
                    inner = name.removeprefix(PREFIX)
                    if inner not in places:
                        raise UsageError(f"{thinker}: has no {inner}, which {file} has")
                    with safe_open(places[inner], framework="pt") as new:
                        tensor = new.get_tensor(inner).to(tensor.dtype).contiguous()
                    left.discard(inner)
                weights[name] = tensor
        save_file(weights, out / file.name, metadata={"format": "pt"})
    if left:
        raise UsageError(f"{thinker}: has {sorted(left)[0]}, which {whole} has not")


def _places(folder: Path) -> dict[str, Path]:
    """Name of every weight of a checkpoint -> the file that it is in."""
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        found = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return {name: folder / file for name, file in found.items()}
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return dict.fromkeys(file.keys(), folder / "model.safetensors")
