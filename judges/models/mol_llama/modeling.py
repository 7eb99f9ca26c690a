"""Mol-LLaMA as a transformers model: two molecule encoders, a connector, and a Llama.

The connector turns the encoders' features into eight vectors per molecule, which replace the molecule's placeholder
tokens. LoRA adapters on the Llama are not part of this model; they are ordinary peft adapters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from flex_judge.judges.models.mol_llama.blending import Blending
from flex_judge.judges.models.mol_llama.configuration import MolLlamaConfig
from flex_judge.judges.models.mol_llama.gin import GIN
from flex_judge.judges.models.mol_llama.graphs import GRAPHS
from flex_judge.judges.models.mol_llama.unimol import PAD, DistanceKernels, UniMol

FROZEN = ("unimol", "gin")
"""Submodules of `MolLlamaModel` that are frozen in all training."""


class MolLlamaConnector(nn.Module):
    """Map encoder features to language model vectors: blending, Q-Former, projection."""

    def __init__(self, config: MolLlamaConfig) -> None:
        super().__init__()
        width_2d, width_3d = config.gin_config.hidden_size, config.unimol_config.hidden_size
        self.blending = Blending(config.blending_config, width_2d, width_3d)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.qformer = AutoModel.from_config(config.qformer_config)
        self.proj = nn.Linear(config.qformer_config.hidden_size, config.text_config.hidden_size)

    def forward(
        self, features_2d: torch.Tensor, features_3d: torch.Tensor, mask_2d: torch.Tensor, mask_3d: torch.Tensor
    ) -> torch.Tensor:
        """Compute vectors (molecules, queries, width of the language model); see `Blending.forward` for arguments."""
        dtype = (
            self.proj.weight.dtype
        )  # in training, the connector may be float32 while the encoders are in half precision
        blended, mask = self.blending(features_2d.to(dtype), features_3d.to(dtype), mask_2d, mask_3d)
        queries = self.query_tokens.expand(len(blended), -1, -1)
        output = self.qformer(queries, encoder_hidden_states=blended, encoder_attention_mask=mask.long())
        return self.proj(output.last_hidden_state.to(dtype))  # type: ignore[no-any-return]


class MolLlamaPreTrainedModel(PreTrainedModel):
    """Base class with weight initialisation and the flags that transformers reads."""

    config_class = MolLlamaConfig
    base_model_prefix = "model"
    input_modalities = ("text",)
    supports_gradient_checkpointing = True
    _no_split_modules = ["LlamaDecoderLayer", "UniMolLayer", "GINLayer", "BlendingBlock", "Blip2QFormerLayer"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _skip_keys_device_placement = ["past_key_values"]  # noqa: RUF012

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MolLlamaConnector):
            nn.init.normal_(module.query_tokens, std=module.qformer.config.initializer_range)
        elif isinstance(module, DistanceKernels):
            nn.init.uniform_(module.means.weight, 0, 3)
            nn.init.uniform_(module.stds.weight, 0, 3)
            nn.init.ones_(module.mul.weight)
            nn.init.zeros_(module.bias.weight)


class MolLlamaModel(MolLlamaPreTrainedModel):
    """Encoders, connector and language model without its head."""

    def __init__(self, config: MolLlamaConfig) -> None:
        super().__init__(config)
        self.unimol = UniMol(config.unimol_config)
        self.gin = GIN(config.gin_config)
        self.connector = MolLlamaConnector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's token embedding."""
        return self.language_model.get_input_embeddings()  # type: ignore[no-any-return]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embedding."""
        self.language_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> MolLlamaModel:
        """Set training mode; the frozen encoders stay in evaluation mode, so that batch norm averages never change."""
        super().train(mode)
        for name in FROZEN:
            getattr(self, name).eval()
        return self

    def get_molecule_features(
        self,
        atom_tokens: torch.Tensor,
        atom_distances: torch.Tensor,
        atom_features: torch.Tensor,
        edges: torch.Tensor,
        edge_features: torch.Tensor,
    ) -> torch.Tensor:
        """Compute the vectors of molecules, (molecules, queries, width).

        The arguments are the same as in `forward`, without the prompt dimension.
        """
        features_2d, mask_2d = self.gin(atom_features, edges, edge_features)
        features_3d, mask_3d = self.unimol(atom_tokens, atom_distances)
        return self.connector(features_2d, features_3d, mask_2d, mask_3d)  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        atom_tokens: torch.Tensor | None = None,
        atom_distances: torch.Tensor | None = None,
        atom_features: torch.Tensor | None = None,
        edges: torch.Tensor | None = None,
        edge_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run the model on prompts with molecules.

        Molecule tensors have a prompt dimension, so that code that repeats or splits a batch (beam search, gradient
        accumulation) keeps each molecule with its prompt. A prompt with fewer molecules than the others is filled up
        with molecules that are all padding.

        Args:
            input_ids: int64 (prompts, tokens), with `num_query_tokens` placeholder tokens per molecule.
            attention_mask: (prompts, tokens), 1 for tokens and 0 for padding.
            inputs_embeds: (prompts, tokens, width), instead of `input_ids`; already contains the molecule vectors.
            atom_tokens: int64 (prompts, molecules, atoms), token ids of the 3D encoder, padded with 0.
            atom_distances: float32 (prompts, molecules, atoms, atoms), in angstrom.
            atom_features: int64 (prompts, molecules, atoms, 9), inputs of the 2D encoder, padded with -1.
            edges: int64 (prompts, molecules, edges, 2), padded with -1.
            edge_features: int64 (prompts, molecules, edges, 3), padded with -1.
            kwargs: further arguments of the language model.

        Raises:
            ValueError: placeholders and molecules do not match.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("pass exactly one of input_ids and inputs_embeds")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            graphs = (atom_tokens, atom_distances, atom_features, edges, edge_features)
            inputs_embeds = self._insert_molecules(input_ids, inputs_embeds, graphs)
        elif atom_tokens is not None:
            raise ValueError("pass either inputs_embeds or molecules, not both")
        return self.language_model(  # type: ignore[no-any-return]
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
        )

    def _insert_molecules(
        self, input_ids: Any, inputs_embeds: torch.Tensor, graphs: tuple[torch.Tensor | None, ...]
    ) -> torch.Tensor:
        """Replace the embeddings of placeholder tokens by the vectors of the molecules."""
        is_placeholder = input_ids == self.config.molecule_token_id
        tensors = [tensor for tensor in graphs if tensor is not None]
        if not tensors:
            if is_placeholder.any():
                raise ValueError(f"prompts: {int(is_placeholder.sum())} molecule placeholders, but no molecules passed")
            return inputs_embeds
        if len(tensors) < len(graphs):
            raise ValueError(f"molecules: pass all of {', '.join(GRAPHS)}")
        is_molecule = tensors[0][..., 0] != PAD  # molecules that fill up a prompt start with padding
        expected = is_molecule.sum(1) * self.config.num_query_tokens
        if not torch.equal(is_placeholder.sum(1), expected):
            raise ValueError(
                f"prompts: {is_placeholder.sum(1).tolist()} molecule placeholders, expected {expected.tolist()} for "
                "their molecules"
            )
        # Other prompts of a batch may have molecules while this shard of it has none.
        if not is_molecule.any():
            return inputs_embeds
        vectors = self.get_molecule_features(*(tensor[is_molecule] for tensor in tensors))
        return inputs_embeds.masked_scatter(is_placeholder.unsqueeze(-1), vectors.to(inputs_embeds.dtype))


class MolLlamaForConditionalGeneration(MolLlamaPreTrainedModel, GenerationMixin):
    """`MolLlamaModel` with a language modelling head."""

    def __init__(self, config: MolLlamaConfig) -> None:
        super().__init__(config)
        self.model = MolLlamaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the language model's token embedding."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the language model's token embedding."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """Return the language modelling head."""
        return self.lm_head

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        atom_tokens: torch.Tensor | None = None,
        atom_distances: torch.Tensor | None = None,
        atom_features: torch.Tensor | None = None,
        edges: torch.Tensor | None = None,
        edge_features: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Compute logits and, with labels, the loss.

        `labels` are int64 (prompts, tokens), -100 at positions without loss. `logits_to_keep` is the number of last
        positions to compute logits for (0: all), or a tensor of positions. For the other arguments see
        `MolLlamaModel.forward`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            atom_tokens=atom_tokens,
            atom_distances=atom_distances,
            atom_features=atom_features,
            edges=edges,
            edge_features=edge_features,
            **kwargs,
        )
        positions = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, positions, :])
        loss = None
        if labels is not None:
            size = self.config.text_config.vocab_size
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def prepare_inputs_for_generation(self, *args: Any, is_first_iteration: bool = False, **kwargs: Any) -> Any:
        """Pass molecules on the first step only, or on every step if there is no KV cache."""
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in GRAPHS:
                inputs.pop(name, None)
        return inputs
