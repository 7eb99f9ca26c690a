"""DPO of a policy that sees molecules: TRL's trainer, with a collator that carries them.

Trained are the adapters on the language model and the connector, as the paper does; encoders and language model stay.
The reference is the policy as it began, adapters and connector: TRL keeps a copy of them beside the ones it trains.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from alignment.prompts import MOLECULES
from alignment.training.weights import FamilyWeights
from judges.errors import UsageError
from judges.models import ADAPTER_FILES, OWN_ADAPTER, resolve_model
from judges.models.mol_llama.features import MoleculeFeatures, featurise
from judges.models.mol_llama.graphs import graphs
from judges.models.mol_llama.processor import expand
from judges.models.mol_llama.tokens import MOLECULE_TOKEN

CONNECTOR = "connector"
"""The module that is trained whole, beside the adapters."""
_PLACE = f"base_model.model.model.{CONNECTOR}"
"""Where it stands in a file of peft's."""
KEPT = 4096
"""Molecules whose features are kept while a policy is trained."""
REFERENCE = "ref"
"""What TRL calls its copy of the adapters."""


@dataclass
class MoleculePreferences(DataCollatorForPreference):  # type: ignore[misc]
    """As TRL's, with the molecules of the prompts: once for the chosen answers, once for the rejected ones."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        seen = [[_features(smiles) for smiles in example.get(MOLECULES) or ()] for example in examples]
        return {**super().torch_call(examples), **graphs([*seen, *seen])}


class MoleculeDPOTrainer(FamilyWeights, DPOTrainer):  # type: ignore[misc]
    """TRL's trainer, which would take the column of molecules away before the collator sees it."""

    _signature_columns: list[str] | None

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            self._signature_columns = [*(self._signature_columns or ()), MOLECULES]


def policy_to_train(name: str, dtype: Any, peft_config: Any = None, adapter: Path | None = None) -> Any:
    """The policy with its adapters and its connector to be trained, and nothing else.

    Args:
        name: folder or hub id of the model.
        dtype: of its weights.
        peft_config: of new adapters, for a model that has none.
        adapter: folder of the adapters to go on with; None for those that the model brings along.

    Raises:
        UsageError: the model has no adapters, and none are to be made.
    """
    from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    from judges.models.mol_llama import MolLlamaForConditionalGeneration

    folder = resolve_model(name)
    own = adapter or folder / OWN_ADAPTER
    had = (own / ADAPTER_FILES[0]).is_file()
    if not had and peft_config is None:
        raise UsageError(f"policy {name!r}: brings no adapters along to be trained; add new ones with --use_peft")
    model = MolLlamaForConditionalGeneration.from_pretrained(folder, dtype=dtype)
    config = LoraConfig.from_pretrained(own) if had else peft_config
    config.modules_to_save, config.inference_mode = [CONNECTOR], False
    connector = {f"{_PLACE}.{name}": one.clone() for name, one in model.model.connector.state_dict().items()}
    policy = get_peft_model(model, config)
    if had:  # an adapter that was trained here has a connector of its own
        weights = {**connector, **load_peft_weights(own, device="cpu")}
        unplaced = set_peft_model_state_dict(policy, weights).unexpected_keys
        if unplaced:
            raise UsageError(f"adapter {own}: does not fit {name!r}: no place for {unplaced[0]!r}")
    for module in policy.modules():  # TRL turns off the dropout that is a module; this one is a number
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    return policy


def with_places(rows: Any, queries: int, name: str) -> Any:
    """Preference rows whose prompts have as many tokens in the place of a molecule as it takes vectors.

    Args:
        rows: a `datasets.Dataset` of conversations, with a column `molecules`.
        queries: vectors of a molecule.
        name: what messages call it.

    Raises:
        UsageError: a row has another number of places than molecules, a molecule that cannot be shown, or a place in an
            answer. It says which row.
    """
    problems = _problems(rows)
    if problems:
        more = f" (and {len(problems) - 1} more rows)" * (len(problems) > 1)
        raise UsageError(f"{name}, {problems[0]}{more}")

    def placed(row: dict[str, Any], number: int) -> dict[str, Any]:
        prompt = [dict(message) for message in row["prompt"]]
        whole = "\0".join(message["content"] for message in prompt)
        count = len(row.get(MOLECULES) or ())
        texts = expand(whole, count, queries, f"{name}, row {number + 1}, field 'prompt'").split("\0")
        return {"prompt": [{**one, "content": text} for one, text in zip(prompt, texts, strict=True)]}

    return rows.map(placed, with_indices=True)


def _problems(rows: Any) -> list[str]:
    """What is wrong with rows, each with its number."""
    found = []
    for number, row in enumerate(rows, 1):
        for side in ("chosen", "rejected"):
            if any(MOLECULE_TOKEN in message["content"] for message in row[side]):
                found.append(f"row {number}, field {side!r}: has {MOLECULE_TOKEN} in an answer, where no molecule is")
        for k, smiles in enumerate(row.get(MOLECULES) or (), 1):
            try:
                _features(smiles)
            except UsageError as e:
                found.append(f"row {number}, field {MOLECULES!r}, molecule {k}: {e}")
    return found


def forget_reference(folder: Path) -> None:
    """Take away the copy of the adapters that was saved beside the trained ones."""
    import shutil

    shutil.rmtree(folder / REFERENCE, ignore_errors=True)


@lru_cache(maxsize=KEPT)
def _features(smiles: str) -> MoleculeFeatures:
    return featurise(smiles)
