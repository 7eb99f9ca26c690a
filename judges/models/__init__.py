"""Model lookup: resolve a model name to a checkpoint folder.

A name is an embedded model, a local folder or a Hugging Face hub id. Architectures that this project implements itself
are subpackages (`flex_judge.judges.models.mol_llama`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from flex_judge.judges.errors import ModelNotFoundError, get_first_line
from flex_judge.judges.models.cache import fingerprint_folder
from flex_judge.judges.models.embedded import EMBEDDED, TunedModel

_FINGERPRINT = re.compile(r"@[0-9a-f]{12}$")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
WEIGHT_PATTERNS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf")
TOKENIZER_PATTERNS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken")
"""Files of a checkpoint that hold its configuration, its tokenizer and its chat template."""
BUNDLED_ADAPTER = "adapter"
"""Subfolder of a checkpoint with the LoRA adapter that ships with it."""
MOL_LLAMA = "mol_llama"
"""`model_type` of a model that takes molecules as input, see `flex_judge.judges.models.mol_llama`."""


def resolve_model(name: str) -> Path:
    """Find the checkpoint folder of a model; an embedded model is converted on first use.

    Args:
        name: name of an embedded model, a folder, or a hub id.

    Raises:
        ModelNotFoundError: no such model; the message lists what was tried.
    """
    if name in EMBEDDED:
        return EMBEDDED[name].convert_once()
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFoundError(f"model {name!r}: the folder has no config.json; name a checkpoint folder")
        return path
    return _download_from_hub(name)


def resolve_tokenizer(name: str) -> Path:
    """Find the folder with the tokenizer and the configuration of a model; downloads no weights.

    Args:
        name: name of an embedded model, a folder, or a hub id.

    Raises:
        ModelNotFoundError: no such model, or it has no tokenizer.
    """
    is_local = name in EMBEDDED or Path(name).expanduser().is_dir()
    folder = resolve_model(name) if is_local else _download_from_hub(name, only=TOKENIZER_PATTERNS)
    for file in ("config.json", "tokenizer_config.json"):
        if not (folder / file).is_file():
            raise ModelNotFoundError(f"tokenizer {name!r}: the folder has no {file}; name a checkpoint folder")
    return folder


def resolve_adapter(name: str) -> Path:
    """Find the folder of a LoRA adapter.

    Args:
        name: a folder or a hub id.

    Raises:
        ModelNotFoundError: no such adapter, or its weights are not in safetensors format.
    """
    path = Path(name).expanduser()
    if not path.is_dir():
        path = _download_from_hub(name, kind="adapter")
    for file in ADAPTER_FILES:
        if not (path / file).is_file():
            raise ModelNotFoundError(f"adapter {name!r}: the folder has no {file}; name the folder of a LoRA adapter")
    return path


def check_model(name: str, adapter: str | None = None) -> None:
    """Check that a model, and optionally a LoRA adapter, is available.

    Converts nothing and downloads no model weights; adapter weights are small and are downloaded.

    Raises:
        ModelNotFoundError: the model or the adapter is not available.
    """
    if name in EMBEDDED:
        EMBEDDED[name].check_available()
    elif Path(name).expanduser().is_dir():
        _check_folder(name, resolve_model(name))
    else:
        _download_from_hub(name, only=("config.json",))
    if adapter:
        resolve_adapter(adapter)


def _check_folder(name: str, folder: Path) -> None:
    """Raise ModelNotFoundError unless a checkpoint folder has a readable configuration and all its weights."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        indexed = [json.loads(file.read_text(encoding="utf-8"))["weight_map"] for file in folder.glob("*.index.json")]
        shards = sorted({str(shard) for weight_map in indexed for shard in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise ModelNotFoundError(f"model {name!r}: its files cannot be read: {get_first_line(e)}") from e
    if not isinstance(config, dict) or not (config.get("model_type") or config.get("architectures")):
        raise ModelNotFoundError(f"model {name!r}: its config.json has no model_type; name a checkpoint folder")
    if missing := [shard for shard in shards if not (folder / shard).is_file()]:
        raise ModelNotFoundError(
            f"model {name!r}: the folder lacks {missing[0]} ({len(missing)} of {len(shards)} weight files are missing);"
            " download or copy it again"
        )
    if not any(any(folder.glob(pattern)) for pattern in WEIGHT_PATTERNS):
        raise ModelNotFoundError(
            f"model {name!r}: the folder has no weights ({', '.join(WEIGHT_PATTERNS)}); name a checkpoint folder"
        )


def read_model_type(name: str) -> str:
    """Read `model_type` from a model's config.json.

    Returns:
        The type, or an empty string if the file cannot be read: loading the model reports that error.
    """
    if name in EMBEDDED:
        return ""
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir():
            folder = _download_from_hub(name, only=("config.json",))
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (ModelNotFoundError, OSError, ValueError):
        return ""


def identify_model(name: str | None) -> str | None:
    """Append a content fingerprint to the name of a folder or of a tuned embedded model.

    A run stores the result, so that resuming with changed weights under the same name is detected.
    """
    embedded = EMBEDDED.get(name or "")
    if isinstance(embedded, TunedModel):
        return f"{name}@{embedded.digest}"
    return f"{name}@{fingerprint_folder(Path(name))}" if name is not None and Path(name).is_dir() else name


def strip_fingerprint(identity: str) -> str:
    """Return the name that `identify_model` was given."""
    return _FINGERPRINT.sub("", identity)


def _download_from_hub(name: str, only: Sequence[str] | None = None, kind: str = "model") -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    tried = f"no embedded model ({', '.join(EMBEDDED)}) and no folder" if kind == "model" else "no folder"
    try:
        return Path(snapshot_download(name, allow_patterns=list(only) if only else None))
    except HFValidationError as e:
        raise ModelNotFoundError(f"{kind} {name!r} is {tried}, and no hub id; check the spelling") from e
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        # Only the first line: the hub client's messages run over paragraphs.
        reason = get_first_line(e)
        raise ModelNotFoundError(f"{kind} {name!r} is {tried}, and the hub download failed: {reason}") from e
