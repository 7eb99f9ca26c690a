"""DPO of a molecular policy: TRL's trainer with a collator that adds the molecules.

The adapters of the language model and the connector are trained, as in arXiv 2505.18601; the encoders and the language
model are frozen. TRL keeps a copy of the initial adapters and connector as the reference policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from flex_judge.alignment.data.prompts import MOLECULES
from flex_judge.alignment.policy_training.molecule_rows import get_features
from flex_judge.alignment.training.trainable_parameters import find_lora_targets
from flex_judge.alignment.training.weights import FamilyWeightsMixin
from flex_judge.judges.errors import UsageError
from flex_judge.judges.models import ADAPTER_FILES, BUNDLED_ADAPTER, resolve_model
from flex_judge.judges.models.mol_llama.graphs import collate_molecules

if TYPE_CHECKING:
    from trl import DPOConfig, ModelConfig

CONNECTOR = "connector"
"""Name of the module that is trained in full."""
_CONNECTOR_PATH = f"base_model.model.model.{CONNECTOR}"
"""Prefix of the connector's weights in a PEFT adapter file."""
REFERENCE_ADAPTER = "ref"
"""Name that TRL gives its copy of the adapters."""


@dataclass
class MoleculePreferenceCollator(DataCollatorForPreference):  # type: ignore[misc]
    """TRL collator that also adds the molecules of the prompts."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Collate examples. A batch holds all chosen answers, then all rejected ones, so the molecules occur twice."""
        molecules = [[get_features(smiles) for smiles in example.get(MOLECULES) or ()] for example in examples]
        return {**super().torch_call(examples), **collate_molecules([*molecules, *molecules])}


class MoleculeDPOTrainer(FamilyWeightsMixin, DPOTrainer):  # type: ignore[misc]
    """DPO trainer that passes the column `molecules` to the collator."""

    _signature_columns: list[str] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # PEFT keeps adapters in 32 bits, but not the modules to save. At a learning rate of 1e-5 the updates of 16-bit
        # weights would be rounded away.
        for name, parameter in self.model.named_parameters():
            if ".modules_to_save." in name:
                parameter.data = parameter.data.float()

    def _set_signature_columns_if_needed(self) -> None:
        # The trainer removes all columns that are not in this list.
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns = [*(self._signature_columns or ()), MOLECULES]


def check_molecule_settings(model: ModelConfig, args: DPOConfig) -> None:
    """Raise UsageError for TRL settings that a molecular policy does not support."""
    name = model.model_name_or_path
    if model.load_in_4bit or model.load_in_8bit:
        raise UsageError(f"--load_in_4bit, --load_in_8bit: not supported for the molecular policy {name!r}; omit them")
    if args.truncation_mode != "keep_start":
        raise UsageError(f"--truncation_mode {args.truncation_mode}: would cut molecules off; use keep_start")
    if model.lora_modules_to_save:
        raise UsageError("--lora_modules_to_save: a molecular policy always saves its connector; omit the flag")
    brings_adapter = has_adapter(name)
    if brings_adapter and model.use_peft:
        raise UsageError(f"--use_peft: {name!r} brings its own adapters, which are trained; omit the flag")
    if not brings_adapter and not model.use_peft:
        raise UsageError(f"policy {name!r}: has no adapters to train; add new ones with --use_peft")


def has_adapter(name: str) -> bool:
    """Check whether a model comes with adapters."""
    return (resolve_model(name) / BUNDLED_ADAPTER / ADAPTER_FILES[0]).is_file()


def load_trainable_policy(
    name: str, dtype: Any, peft_config: Any = None, attn_implementation: str | None = None
) -> Any:
    """Load a molecular policy with trainable adapters and connector; everything else is frozen.

    Args:
        name: Folder or hub id of the model.
        dtype: Data type of the weights.
        peft_config: Configuration of new adapters on the language model, for a model that has none; it is modified.
        attn_implementation: Name of a transformers attention implementation.

    Raises:
        UsageError: The language model lacks a layer that the new adapters target, or the model's adapter does not fit.
    """
    from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    from flex_judge.judges.models.mol_llama.modeling import MolLlamaForConditionalGeneration

    folder = resolve_model(name)
    adapter = folder / BUNDLED_ADAPTER if has_adapter(name) else None
    model = MolLlamaForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation=attn_implementation
    )
    config = LoraConfig.from_pretrained(adapter) if adapter else peft_config
    if not adapter:
        config.target_modules = find_lora_targets(model, config.target_modules)
    config.modules_to_save, config.inference_mode = [CONNECTOR], False
    weights = {f"{_CONNECTOR_PATH}.{key}": value.clone() for key, value in model.model.connector.state_dict().items()}
    policy = get_peft_model(model, config)
    if adapter:
        # An adapter that was trained here includes a connector, which replaces the model's.
        weights |= load_peft_weights(adapter, device="cpu")
        unexpected = set_peft_model_state_dict(policy, weights).unexpected_keys
        if unexpected:
            raise UsageError(f"adapter {adapter}: does not fit {name!r}: unexpected weight {unexpected[0]!r}")
    # TRL disables dropout modules only. Attention dropout is a number, and would make the reference policy random.
    for module in policy.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return policy


def remove_reference_adapter(folder: Path) -> None:
    """Delete the reference copy of the adapters, which TRL saves next to the trained ones."""
    import shutil

    shutil.rmtree(folder / REFERENCE_ADAPTER, ignore_errors=True)
