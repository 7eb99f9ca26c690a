"""Multimodal model inputs of the transformers engine: pixels, audio features, molecules and position ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from flex_judge.judges.errors import RenderError, UsageError, get_first_line
from flex_judge.judges.media.prepared import SAMPLE_RATE, PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.checkpoints import Checkpoint
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens, check_media_content

_NAMES = {  # modality -> names of the model's arguments for content and shape
    Modality.IMAGE: ("pixel_values", "image_grid_thw"),
    Modality.VIDEO: ("pixel_values_videos", "video_grid_thw"),
    Modality.AUDIO: ("input_features", "feature_attention_mask"),
}


@dataclass(frozen=True)
class EncodedPrompt:
    """Model inputs of one prompt."""

    token_ids: list[int]
    """Tokens, with each placeholder token repeated once per token of its medium."""
    positions: torch.Tensor | None = None
    """Position ids of shape (3, tokens) for models with multimodal rotary embeddings; None for others."""
    inputs: dict[Modality, list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)
    """Content and shape tensors of each modality's media, in order."""
    molecules: list[Any] = field(default_factory=list)
    """`MoleculeFeatures` of the molecules, in order."""


class MediaEncoder:
    """Encoder of prompts with media for one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, config: Any, limit: int) -> None:
        """Load the media processors of a checkpoint.

        Args:
            checkpoint: the checkpoint.
            config: transformers configuration of its model.
            limit: longest accepted sequence, in tokens.
        """
        self._limit = limit
        self.placeholders = PlaceholderTokens(checkpoint.profile, checkpoint.tokenizer)
        self._profile = checkpoint.profile
        # Molecules need no processor: their features are computed when the medium is prepared.
        self._processors: dict[Modality, Any] = {
            modality: _load_processor(checkpoint, modality)
            for modality in self.placeholders.ids
            if modality != Modality.MOLECULE
        }
        self._per_second = 0
        if Modality.VIDEO in self.placeholders.ids:
            omni = hasattr(config, "position_id_per_seconds")
            self._per_second = config.position_id_per_seconds if omni else config.vision_config.tokens_per_second

    def encode_prompt(self, token_ids: Sequence[int], media: Sequence[PreparedMedia]) -> EncodedPrompt:
        """Encode a prompt.

        Args:
            token_ids: the prompt, with one placeholder token per medium.
            media: prepared media; they are not scaled again.

        Raises:
            UsageError: the prompt is too long.
            MediaError: the model does not support a medium.
            RenderError: placeholders and media do not match, or a medium has another number of tokens than its family
                defines.
        """
        placeholders = self.placeholders.locate_media(token_ids, media, self._limit)
        expanded: list[int] = []
        grids: list[Grid] = []
        inputs: dict[Modality, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        molecules = []
        copied = 0
        for index, medium in zip(placeholders, media, strict=True):
            expanded += token_ids[copied:index]
            copied = index + 1
            if medium.modality == Modality.MOLECULE:
                check_media_content(medium)
                molecules.append(medium.value)
                expanded += [token_ids[index]] * self._profile.count_tokens(medium)
                continue
            content, shape = self._encode_content(medium)
            inputs.setdefault(medium.modality, []).append((content, shape))
            count = self._count_tokens(medium, shape)
            if medium.modality != Modality.AUDIO:
                grids.append(self._build_grid(len(expanded), medium, shape))
            expanded += [token_ids[index]] * count
        expanded += token_ids[copied:]
        positions = compute_position_ids(len(expanded), grids) if self._processors else None
        return EncodedPrompt(expanded, positions, inputs, molecules)

    def _encode_content(self, medium: PreparedMedia) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the processor on a medium.

        Returns:
            Content and shape: patches (n, values) and a grid (1, 3) of an image or video; features (1, mels, n) and a
            mask (1, n) of audio.
        """
        check_media_content(medium)
        processor = self._processors[medium.modality]
        content, shape = _NAMES[medium.modality]
        if medium.modality == Modality.IMAGE:
            out = processor(images=[medium.value], do_resize=False, return_tensors="pt")
        elif medium.modality == Modality.VIDEO:
            frames = torch.from_numpy(medium.value).permute(0, 3, 1, 2)
            out = processor(videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pt")
        else:
            # Whisper's window extends past both ends. The family pads with silence; without the extra length the
            # extractor would pad with a reflection of the sound.
            padded = medium.length + 2 * processor.n_fft
            out = processor(
                medium.value,
                sampling_rate=SAMPLE_RATE,
                padding="max_length",
                max_length=padded - padded % processor.hop_length,
                return_attention_mask=True,
                return_tensors="pt",
            )
            shape = "attention_mask"
        return out[content], out[shape]

    def _count_tokens(self, medium: PreparedMedia, shape: torch.Tensor) -> int:
        """Return the number of tokens of a medium; raise RenderError if the processor's output differs."""
        expected = self._profile.count_tokens(medium)
        if medium.modality == Modality.AUDIO:
            actual = ((int(shape.sum()) - 1) // 2 - 1) // 2 + 1
        else:
            merge = self._processors[medium.modality].merge_size
            actual = int(shape.prod()) // merge**2
        if actual != expected:
            raise RenderError(
                f"{medium.modality}: the processor made {actual} tokens, a {self._profile.name} model has {expected}"
            )
        return expected

    def _build_grid(self, start: int, medium: PreparedMedia, shape: torch.Tensor) -> Grid:
        processor = self._processors[medium.modality]
        frames, height, width = shape[0].tolist()
        is_image = medium.modality == Modality.IMAGE
        step = 0.0 if is_image else self._per_second * processor.temporal_patch_size / medium.fps
        return Grid(start, frames, height // processor.merge_size, width // processor.merge_size, step)


def collate_prompts(prompts: Sequence[EncodedPrompt], pad: int, device: str) -> dict[str, Any]:
    """Collate prompts into left-padded arguments of a model's `generate`.

    Args:
        prompts: prompts encoded for one checkpoint.
        pad: id of the padding token.
        device: device of the tensors.
    """
    width = max(len(prompt.token_ids) for prompt in prompts)
    gaps = [width - len(prompt.token_ids) for prompt in prompts]
    ids = torch.tensor([[pad] * gap + prompt.token_ids for gap, prompt in zip(gaps, prompts, strict=True)])
    mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
    arguments: dict[str, torch.Tensor] = {"input_ids": ids, "attention_mask": mask}
    positions = [prompt.positions for prompt in prompts if prompt.positions is not None]
    if positions:
        padded = [torch.nn.functional.pad(p, (gap, 0)) for gap, p in zip(gaps, positions, strict=True)]
        # transformers expects plain text positions first, which it builds the attention mask with.
        text_positions = (mask.cumsum(-1) - 1).clamp(min=0)
        arguments["position_ids"] = torch.cat([text_positions[None], torch.stack(padded, dim=1)])
    for modality, (content, shape) in _NAMES.items():
        pairs = [pair for prompt in prompts for pair in prompt.inputs.get(modality, [])]
        if pairs:
            longest = max(pair[1].shape[-1] for pair in pairs)
            for name, tensors in ((content, [p[0] for p in pairs]), (shape, [p[1] for p in pairs])):
                if modality == Modality.AUDIO:
                    tensors = [torch.nn.functional.pad(t, (0, longest - t.shape[-1])) for t in tensors]
                arguments[name] = torch.cat(tensors)
    if any(prompt.molecules for prompt in prompts):
        from flex_judge.judges.models.mol_llama.graphs import collate_molecules

        arguments |= collate_molecules([prompt.molecules for prompt in prompts])
    return {name: tensor.to(device) for name, tensor in arguments.items()}


def _load_processor(checkpoint: Checkpoint, modality: Modality) -> Any:
    from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoVideoProcessor

    kinds = {
        Modality.IMAGE: AutoImageProcessor,
        Modality.VIDEO: AutoVideoProcessor,
        Modality.AUDIO: AutoFeatureExtractor,
    }
    try:
        processor = kinds[modality].from_pretrained(checkpoint.path)
    except (OSError, ValueError) as e:
        raise UsageError(
            f"model {checkpoint.path}: cannot read preprocessor_config.json for {modality} ({get_first_line(e)}); "
            "copy it from the base model"
        ) from e
    processor.cap_pixels_per_frame = False  # videos are scaled already; an explicit value avoids a warning
    return processor


@dataclass(frozen=True)
class Grid:
    """Position of an image or a video in a prompt, and its shape in tokens."""

    start: int
    """Index of its first token."""
    frames: int
    """Number of frames after merging; 1 for an image."""
    rows: int
    columns: int
    step: float = 0.0
    """Position increment per frame: positions per second times seconds per merged frame."""

    @property
    def size(self) -> int:
        """Number of tokens."""
        return self.frames * self.rows * self.columns


def compute_position_ids(length: int, grids: Sequence[Grid]) -> torch.Tensor:
    """Compute multimodal rotary position ids (M-RoPE, arXiv 2409.12191): time, row and column of each token.

    Text and audio tokens have three equal positions that count up. The positions of a grid start at the next text
    position, and text after the grid continues from the grid's highest position plus one.

    Args:
        length: number of tokens in the prompt, with placeholder tokens repeated.
        grids: images and videos of the prompt, in order.

    Returns:
        int64 tensor of shape (3, length).
    """
    pieces: list[torch.Tensor] = []
    end, position = 0, 0  # end of the previous grid in tokens, and the next text position
    for grid in grids:
        text_length = grid.start - end
        pieces.append(_build_text_positions(position, text_length))
        position += text_length
        times = [int(frame * grid.step) for frame in range(grid.frames)]
        axes = (torch.tensor(times), torch.arange(grid.rows), torch.arange(grid.columns))
        pieces.append(torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1) + position)
        position = int(pieces[-1].max()) + 1
        end = grid.start + grid.size
    pieces.append(_build_text_positions(position, length - end))
    return torch.cat(pieces, dim=1)


def _build_text_positions(start: int, length: int) -> torch.Tensor:
    return torch.arange(start, start + length).expand(3, -1)
