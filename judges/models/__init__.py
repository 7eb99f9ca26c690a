"""Where a model's files are: embedded models, local folders, the hub. Architectures of our own are packages below."""

from __future__ import annotations

import json
import re
from pathlib import Path

from flex_judge.judges.errors import ModelNotFoundError
from flex_judge.judges.models.cache import fingerprint_folder
from flex_judge.judges.models.embedded import EMBEDDED, TunedModel

_FINGERPRINT = re.compile(r"@[0-9a-f]{12}$")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
BUNDLED_ADAPTER = "adapter"
"""Folder, in that of a model, with the LoRA adapter that belongs to it."""
MOL_LLAMA = "mol_llama"
"""`model_type` of a model that sees molecules, see `flex_judge.judges.models.mol_llama`."""


def resolve_model(name: str) -> Path:
    """The folder of the model called `name`: an embedded model (converted at first use), a folder, or a hub id.

    Raises:
        ModelNotFoundError: nothing of that name can be had; the message says what was tried.
    """
    if name in EMBEDDED:
        return EMBEDDED[name].convert_once()
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"model {name!r}: the folder has no config.json, so it is not a checkpoint")
        return path
    return _download_from_hub(name)


def resolve_adapter(name: str) -> Path:
    """The folder of the LoRA adapter called `name`: a folder, or a hub id.

    Raises:
        ModelNotFoundError: no adapter of that name can be had, or not one with weights in safetensors.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        path = _download_from_hub(name, kind="adapter")
    for file in ADAPTER_FILES:
        if not (path / file).is_file():
            raise ModelNotFoundError(f"adapter {name!r}: the folder has no {file}, so it is not a LoRA adapter")
    return path


def check_model(name: str, adapter: str | None = None) -> None:
    """Raise ModelNotFoundError if a model, or a LoRA adapter on it, cannot be had. Converts and downloads no weights,
    the adapter's apart.
    """
    if name in EMBEDDED:
        EMBEDDED[name].check_available()
    elif Path(name).expanduser().is_dir():
        resolve_model(name)
    else:
        _download_from_hub(name, only="config.json")
    if adapter:
        resolve_adapter(adapter)


def read_model_type(name: str) -> str:
    """The `model_type` in a model's config.json; empty where it cannot be had, which whoever loads it will say."""
    if name in EMBEDDED:
        return ""
    try:
        folder = (
            Path(name).expanduser()
            if Path(name).expanduser().is_dir()
            else _download_from_hub(name, only="config.json")
        )
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (ModelNotFoundError, OSError, ValueError):
        return ""


def identify_model(name: str | None) -> str | None:
    """A model as the identity of a run holds it: of a folder, and of the embedded judge, what is in it counts too."""
    embedded = EMBEDDED.get(name or "")
    if isinstance(embedded, TunedModel):
        return f"{name}@{embedded.digest}"
    return f"{name}@{fingerprint_folder(Path(name))}" if name is not None and Path(name).is_dir() else name


def strip_fingerprint(identity: str) -> str:
    """The name that `identified` was given."""
    return _FINGERPRINT.sub("", identity)


def _download_from_hub(name: str, only: str | None = None, kind: str = "model") -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    known = f"no embedded model ({', '.join(EMBEDDED)}) and no folder" if kind == "model" else "no folder"
    try:
        return Path(snapshot_download(name, allow_patterns=[only] if only else None))
    except HFValidationError as e:
        raise ModelNotFoundError(f"{kind} {name!r} is {known}, and no hub id") from e
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        reason = str(e).strip().splitlines()[0][:120] if str(e).strip() else type(e).__name__
        raise ModelNotFoundError(f"{kind} {name!r} is {known}, and the hub does not give it: {reason}") from e
