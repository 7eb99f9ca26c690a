"""DPO of a policy that sees molecules: TRL's trainer, with a collator that carries them.

Trained are the adapters on the language model and the connector, as the paper does; encoders and language model stay.
The reference is the policy as it began, adapters and connector: TRL keeps a copy of them beside the ones it trains.
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
"""The module that is trained whole, beside the adapters."""
_PLACE = f"base_model.model.model.{CONNECTOR}"
"""Where it stands in a file of peft's."""
REFERENCE_ADAPTER = "ref"
"""What TRL calls its copy of the adapters."""


@dataclass
class MoleculePreferenceCollator(DataCollatorForPreference):  # type: ignore[misc]
    """As TRL's, with the molecules of the prompts: once for the chosen answers, once for the rejected ones."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        seen = [[get_features(smiles) for smiles in example.get(MOLECULES) or ()] for example in examples]
        return {**super().torch_call(examples), **collate_molecules([*seen, *seen])}


class MoleculeDPOTrainer(FamilyWeightsMixin, DPOTrainer):  # type: ignore[misc]
    """TRL's trainer, which would take the column of molecules away before the collator sees it."""

    _signature_columns: list[str] | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # As peft does with adapters: steps of 1e-5 are lost on weights of 16 bits.
        for name, parameter in self.model.named_parameters():
            if ".modules_to_save." in name:
                parameter.data = parameter.data.float()

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns = [*(self._signature_columns or ()), MOLECULES]


def check_molecule_settings(model: ModelConfig, args: DPOConfig) -> None:
    """Raise UsageError for settings of TRL's that such a policy cannot be trained with."""
    name = model.model_name_or_path
    if model.load_in_4bit or model.load_in_8bit:
        raise UsageError(f"--load_in_4bit and --load_in_8bit: {name!r}, which sees molecules, is trained unquantized")
    if args.truncation_mode != "keep_start":
        raise UsageError(f"--truncation_mode {args.truncation_mode} would cut molecules off; use keep_start")
    if model.lora_modules_to_save:
        raise UsageError("--lora_modules_to_save: of a policy that sees molecules that is the connector; leave it out")
    brings = has_adapter(name)
    if brings and model.use_peft:
        raise UsageError(f"--use_peft makes new adapters, and {name!r} brings its own, which are trained; leave it out")
    if not brings and not model.use_peft:
        raise UsageError(f"policy {name!r}: brings no adapters along to be trained; add new ones with --use_peft")


def has_adapter(name: str) -> bool:
    """Whether a model brings adapters along."""
    return (resolve_model(name) / BUNDLED_ADAPTER / ADAPTER_FILES[0]).is_file()


def load_trainable_policy(
    name: str, dtype: Any, peft_config: Any = None, attn_implementation: str | None = None
) -> Any:
    """The policy with its adapters and its connector to be trained, and nothing else.

    Args:
        name: folder or hub id of the model.
        dtype: of its weights.
        peft_config: of new adapters, for a model that brings none; they are put on its language model.
        attn_implementation: as transformers takes it.

    Raises:
        UsageError: its language model has no layer of a name that the adapters are for.
    """
    from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    from flex_judge.judges.models.mol_llama.modeling import MolLlamaForConditionalGeneration

    folder = resolve_model(name)
    own = folder / BUNDLED_ADAPTER if has_adapter(name) else None
    model = MolLlamaForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, attn_implementation=attn_implementation
    )
    config = LoraConfig.from_pretrained(own) if own else peft_config
    if not own:
        config.target_modules = find_lora_targets(model, config.target_modules)
    config.modules_to_save, config.inference_mode = [CONNECTOR], False
    connector = {f"{_PLACE}.{name}": one.clone() for name, one in model.model.connector.state_dict().items()}
    policy = get_peft_model(model, config)
    if own:  # an adapter that was trained here has a connector of its own
        weights = {**connector, **load_peft_weights(own, device="cpu")}
        unplaced = set_peft_model_state_dict(policy, weights).unexpected_keys
        if unplaced:
            raise UsageError(f"adapter {own}: does not fit {name!r}: no place for {unplaced[0]!r}")
    for module in policy.modules():  # TRL turns off the dropout that is a module; this one is a number
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return policy


def remove_reference_adapter(folder: Path) -> None:
    """Take away the copy of the adapters that was saved beside the trained ones."""
    import shutil

    shutil.rmtree(folder / REFERENCE_ADAPTER, ignore_errors=True)
