"""Mol-LLaMA as an ordinary transformers model: two encoders look at a molecule, a connector makes eight vectors of what
they see, and a Llama reads them among its tokens.

The adapters on the Llama are no part of it: they are a LoRA adapter of peft's, as are those that a policy gets.
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
"""The parts of `MolLlamaModel` that nothing trains."""


class MolLlamaConnector(nn.Module):
    """From what the encoders see to vectors that the language model reads: blending, Q-Former, projection."""

    def __init__(self, config: MolLlamaConfig) -> None:
        super().__init__()
        width_2d, width_3d = config.gin_config.hidden_size, config.unimol_config.hidden_size
        self.blending = Blending(config.blending_config, width_2d, width_3d)
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, config.qformer_config.hidden_size))
        self.qformer = AutoModel.from_config(config.qformer_config)
        self.proj = nn.Linear(config.qformer_config.hidden_size, config.text_config.hidden_size)

    def forward(
        self, flat: torch.Tensor, solid: torch.Tensor, real_2d: torch.Tensor, real_3d: torch.Tensor
    ) -> torch.Tensor:
        """Vectors (molecules, queries, width of the language model); the arguments are those of `Blending`."""
        dtype = self.proj.weight.dtype  # where it is trained, more precise than the rest
        blended, real = self.blending(flat.to(dtype), solid.to(dtype), real_2d, real_3d)
        queries = self.query_tokens.expand(len(blended), -1, -1)
        seen = self.qformer(queries, encoder_hidden_states=blended, encoder_attention_mask=real.long())
        return self.proj(seen.last_hidden_state.to(dtype))  # type: ignore[no-any-return]


class MolLlamaPreTrainedModel(PreTrainedModel):
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
    """The model without its head."""

    def __init__(self, config: MolLlamaConfig) -> None:
        super().__init__(config)
        self.unimol = UniMol(config.unimol_config)
        self.gin = GIN(config.gin_config)
        self.connector = MolLlamaConnector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()  # type: ignore[no-any-return]

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def train(self, mode: bool = True) -> MolLlamaModel:
        """As of any module; the frozen encoders stay as they are used, with the averages of their batch norms."""
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
        """Vectors (molecules, queries, width) of molecules; the arguments are those of `forward`, without prompts."""
        flat, real_2d = self.gin(atom_features, edges, edge_features)
        solid, real_3d = self.unimol(atom_tokens, atom_distances)
        return self.connector(flat, solid, real_2d, real_3d)  # type: ignore[no-any-return]

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
        """Molecules come by prompt, so that whatever repeats or splits a batch does so with its molecules. A prompt that
        has fewer than others is filled up with molecules that are padding throughout.

        Args:
            input_ids: int64 (prompts, tokens), with `num_query_tokens` placeholders for each molecule.
            attention_mask: 1 where a token is, 0 where padding.
            inputs_embeds: (prompts, tokens, width) instead of `input_ids`; molecules are in it already.
            atom_tokens: int64 (prompts, molecules, atoms): of the 3D encoder, padded with 0.
            atom_distances: float32 (prompts, molecules, atoms, atoms), in angstrom.
            atom_features: int64 (prompts, molecules, atoms, 9): of the 2D encoder, padded with -1.
            edges: int64 (prompts, molecules, edges, 2), padded with -1.
            edge_features: int64 (prompts, molecules, edges, 3).
            kwargs: those of the language model.

        Raises:
            ValueError: placeholders and molecules do not agree.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("exactly one of input_ids and inputs_embeds is needed")
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            graphs = (atom_tokens, atom_distances, atom_features, edges, edge_features)
            inputs_embeds = self._insert_molecules(input_ids, inputs_embeds, graphs)
        elif atom_tokens is not None:
            raise ValueError("molecules are put in the place of input_ids; of inputs_embeds they are a part already")
        return self.language_model(  # type: ignore[no-any-return]
            inputs_embeds=inputs_embeds, attention_mask=attention_mask, **kwargs
        )

    def _insert_molecules(
        self, input_ids: Any, inputs_embeds: torch.Tensor, graphs: tuple[torch.Tensor | None, ...]
    ) -> torch.Tensor:
        """Embeddings of tokens with the vectors of the molecules in their places."""
        places = input_ids == self.config.molecule_token_id
        given = [tensor for tensor in graphs if tensor is not None]
        if not given:
            if places.any():
                raise ValueError(f"the prompts have {int(places.sum())} placeholders for molecules, and no molecule")
            return inputs_embeds
        if len(given) < len(graphs):
            raise ValueError(f"a molecule is all of {', '.join(GRAPHS)}")
        real = given[0][..., 0] != PAD
        per_prompt = real.sum(1) * self.config.num_query_tokens
        if not torch.equal(places.sum(1), per_prompt):
            raise ValueError(
                f"the prompts have {places.sum(1).tolist()} placeholders, where their molecules take "
                f"{per_prompt.tolist()}"
            )
        if not real.any():
            return inputs_embeds
        vectors = self.get_molecule_features(*(tensor[real] for tensor in given))
        return inputs_embeds.masked_scatter(places.unsqueeze(-1), vectors.to(inputs_embeds.dtype))


class MolLlamaForConditionalGeneration(MolLlamaPreTrainedModel, GenerationMixin):
    """The model with its head."""

    def __init__(self, config: MolLlamaConfig) -> None:
        super().__init__(config)
        self.model = MolLlamaModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
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
        """As `MolLlamaModel.forward`, and:

        Args:
            labels: int64 (prompts, tokens): what the loss is taken of, -100 where nothing is.
            logits_to_keep: at how many of the last positions logits are wanted (0: all), or at which.
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
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.lm_head(outputs.last_hidden_state[:, kept, :])
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
        """Molecules are looked at once: with the prompt, or at every step where nothing is kept of it."""
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        if not is_first_iteration and kwargs.get("use_cache", True):
            for name in GRAPHS:
                inputs.pop(name, None)
        return inputs
