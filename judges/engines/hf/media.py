"""What the transformers engine gives a multimodal model beside token ids: pixels, sound, molecules and positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from flex_judge.judges.errors import RenderError, UsageError
from flex_judge.judges.media.prepared import SAMPLE_RATE, PreparedMedia
from flex_judge.judges.media.types import Modality
from flex_judge.judges.models.checkpoints import Checkpoint
from flex_judge.judges.models.inputs.placeholders import PlaceholderTokens, check_media_content

_NAMES = {  # modality -> the model's arguments for its content, and for the content's shape
    Modality.IMAGE: ("pixel_values", "image_grid_thw"),
    Modality.VIDEO: ("pixel_values_videos", "video_grid_thw"),
    Modality.AUDIO: ("input_features", "feature_attention_mask"),
}


@dataclass(frozen=True)
class EncodedPrompt:
    """One prompt as a model takes it."""

    token_ids: list[int]
    """With each pad repeated as often as its medium has tokens."""
    positions: torch.Tensor | None = None
    """Of shape (3, tokens), for models whose positions have three numbers; None for others."""
    inputs: dict[Modality, list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=dict)
    """The media of each modality in their order: content and shape."""
    molecules: list[Any] = field(default_factory=list)
    """Their features, in their order."""


class MediaEncoder:
    """Turns prompts with media into rows, and rows into a batch, for one checkpoint."""

    def __init__(self, checkpoint: Checkpoint, config: Any, limit: int) -> None:
        """Load the processors of a checkpoint.

        Args:
            checkpoint: whose family and files count.
            config: its model's transformers configuration.
            limit: longest sequence that is taken, in tokens.
        """
        self._limit = limit
        self.placeholders = PlaceholderTokens(checkpoint.profile, checkpoint.tokenizer)
        self._profile = checkpoint.profile
        scaled: list[Modality] = [modality for modality in self.placeholders.ids if modality != Modality.MOLECULE]
        self._processors: dict[Modality, Any] = {modality: _load_processor(checkpoint, modality) for modality in scaled}
        self._per_second = 0
        if Modality.VIDEO in self.placeholders.ids:
            omni = hasattr(config, "position_id_per_seconds")
            self._per_second = config.position_id_per_seconds if omni else config.vision_config.tokens_per_second

    def encode_prompt(self, token_ids: Sequence[int], media: Sequence[PreparedMedia]) -> EncodedPrompt:
        """Expand a prompt.

        Args:
            token_ids: one pad per medium.
            media: already scaled; they are not scaled again.

        Raises:
            UsageError: the prompt is too long.
            MediaError: a medium that the model does not take.
            RenderError: pads and media do not agree, or a medium has another number of tokens than its family says.
        """
        places = self.placeholders.locate_media(token_ids, media, self._limit)
        expanded: list[int] = []
        grids: list[Grid] = []
        inputs: dict[Modality, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        molecules = []
        done = 0
        for place, medium in zip(places, media, strict=True):
            expanded += token_ids[done:place]
            done = place + 1
            if medium.modality == Modality.MOLECULE:
                check_media_content(medium)
                molecules.append(medium.value)
                expanded += [token_ids[place]] * self._profile.count_tokens(medium)
                continue
            content, shape = self._encode_content(medium)
            inputs.setdefault(medium.modality, []).append((content, shape))
            count = self._count_tokens(medium, shape)
            if medium.modality != Modality.AUDIO:
                grids.append(self._build_grid(len(expanded), medium, shape))
            expanded += [token_ids[place]] * count
        expanded += token_ids[done:]
        positions = compute_position_ids(len(expanded), grids) if self._processors else None
        return EncodedPrompt(expanded, positions, inputs, molecules)

    def _encode_content(self, medium: PreparedMedia) -> tuple[torch.Tensor, torch.Tensor]:
        """Content and shape: patches (n, values) and a grid (1, 3), or features (1, mels, n) and a mask (1, n)."""
        check_media_content(medium)
        processor = self._processors[medium.modality]
        content, shape = _NAMES[medium.modality]
        if medium.modality == Modality.IMAGE:
            out = processor(images=[medium.value], do_resize=False, return_tensors="pt")
        elif medium.modality == Modality.VIDEO:
            frames = torch.from_numpy(medium.value).permute(0, 3, 1, 2)
            out = processor(videos=[frames], do_resize=False, do_sample_frames=False, return_tensors="pt")
        else:
            # Whisper's features look a little past each end: silence there, as the family pads, not a reflection.
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
        """How many tokens a medium has, by its family's rule and by what the processor made of it."""
        expected = self._profile.count_tokens(medium)
        if medium.modality == Modality.AUDIO:
            actual = ((int(shape.sum()) - 1) // 2 - 1) // 2 + 1
        else:
            merge = self._processors[medium.modality].merge_size
            actual = int(shape.prod()) // merge**2
        if actual != expected:
            raise RenderError(f"{medium.modality}: {actual} tokens, where a {self._profile.name} model has {expected}")
        return expected

    def _build_grid(self, start: int, medium: PreparedMedia, shape: torch.Tensor) -> Grid:
        processor = self._processors[medium.modality]
        frames, height, width = shape[0].tolist()
        still = medium.modality == Modality.IMAGE
        step = 0.0 if still else self._per_second * processor.temporal_patch_size / medium.fps
        return Grid(start, frames, height // processor.merge_size, width // processor.merge_size, step)


def collate_prompts(rows: Sequence[EncodedPrompt], pad: int, device: str) -> dict[str, Any]:
    """Left-padded arguments for `generate` of a model.

    Args:
        rows: of one checkpoint.
        pad: the token to pad with.
        device: where the tensors go.
    """
    width = max(len(row.token_ids) for row in rows)
    gaps = [width - len(row.token_ids) for row in rows]
    ids = torch.tensor([[pad] * gap + row.token_ids for gap, row in zip(gaps, rows, strict=True)])
    mask = torch.tensor([[0] * gap + [1] * (width - gap) for gap in gaps])
    arguments: dict[str, torch.Tensor] = {"input_ids": ids, "attention_mask": mask}
    positions = [row.positions for row in rows if row.positions is not None]
    if positions:
        padded = [torch.nn.functional.pad(p, (gap, 0)) for gap, p in zip(gaps, positions, strict=True)]
        plain = (mask.cumsum(-1) - 1).clamp(min=0)  # what the attention mask is made with
        arguments["position_ids"] = torch.cat([plain[None], torch.stack(padded, dim=1)])
    for modality, (content, shape) in _NAMES.items():
        pairs = [pair for row in rows for pair in row.inputs.get(modality, [])]
        if pairs:
            longest = max(pair[1].shape[-1] for pair in pairs)
            for name, tensors in ((content, [p[0] for p in pairs]), (shape, [p[1] for p in pairs])):
                if modality == Modality.AUDIO:
                    tensors = [torch.nn.functional.pad(t, (0, longest - t.shape[-1])) for t in tensors]
                arguments[name] = torch.cat(tensors)
    if any(row.molecules for row in rows):
        from flex_judge.judges.models.mol_llama.graphs import collate_molecules

        arguments |= collate_molecules([row.molecules for row in rows])
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
        reason = str(e).strip().splitlines()[0][:120]
        raise UsageError(
            f"model {checkpoint.path}: no preprocessor_config.json for {modality} that can be read ({reason}); copy it "
            "from the model that this one was tuned from"
        ) from e
    processor.cap_pixels_per_frame = False  # of videos, which are scaled already; saying so avoids a warning
    return processor


@dataclass(frozen=True)
class Grid:
    """Where an image or a video stands in a prompt, and its shape in tokens."""

    start: int
    """Index of its first token."""
    frames: int
    """1 for an image, else the frames of a video after merging."""
    rows: int
    columns: int
    step: float = 0.0
    """Positions from one frame to the next: tokens per second times seconds per merged frame."""

    @property
    def size(self) -> int:
        """Its number of tokens."""
        return self.frames * self.rows * self.columns


def compute_position_ids(length: int, grids: Sequence[Grid]) -> torch.Tensor:
    """Positions of a prompt's tokens, as integers of shape (3, length): time, row, column.

    Text (and audio) counts up in all three alike. A grid counts from the position that text would have had there, and
    what follows it goes on after the highest number in it.

    Args:
        length: tokens of the prompt, pads repeated.
        grids: its images and videos, in their order.
    """
    pieces: list[torch.Tensor] = []
    done, position = 0, 0
    for grid in grids:
        text = grid.start - done
        pieces.append(_build_text_positions(position, text))
        position += text
        times = [int(frame * grid.step) for frame in range(grid.frames)]
        axes = (torch.tensor(times), torch.arange(grid.rows), torch.arange(grid.columns))
        pieces.append(torch.stack(torch.meshgrid(*axes, indexing="ij")).reshape(3, -1) + position)
        position = int(pieces[-1].max()) + 1
        done = grid.start + grid.size
    pieces.append(_build_text_positions(position, length - done))
    return torch.cat(pieces, dim=1)


def _build_text_positions(start: int, length: int) -> torch.Tensor:
    return torch.arange(start, start + length).expand(3, -1)
