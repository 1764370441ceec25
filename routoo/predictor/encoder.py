"""From prompts to feature vectors: hidden states of a language model, pooled over tokens."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from routoo.predictor.backbone import Backbone
from routoo.predictor.batching import Window, micro_batches
from routoo.predictor.text import bounded, clean

MAX_WINDOW_TOKENS = 512
"""Longest sequence that is scored: attention beyond it costs more than it was seen to tell."""
TOKEN_BUDGET = 4096
"""Padded tokens of a micro-batch: fills a CPU's caches and keeps memory small."""
CHUNK_PROMPTS = 2048
"""Prompts sorted by length together: bounds memory whatever the size of the input."""

Progress = Callable[[int], None]
"""Told how many more prompts are done."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Prompts as the heads see them."""

    features: Float32[np.ndarray, "prompts features"]
    truncated: Bool[np.ndarray, " prompts"]


class Encoder:
    """A frozen language model; each prompt's vector doesn't depend on its batch-mates.

    Args:
        backbone: Where the model lies.
        layers: Hidden states to pool over tokens and concatenate, 0 being the token embeddings.
        device: Device to compute on, in torch's words.
    """

    def __init__(self, backbone: Backbone, layers: Sequence[int], *, device: str = "cpu") -> None:
        self.backbone = backbone
        self.layers = tuple(layers)
        self._device = torch.device(device)
        self._tokenizer, self._model = _load(backbone)
        self._model.to(self._device)
        self.window = _window(self._tokenizer, self._model)

    @property
    def width(self) -> int:
        """Features a prompt."""
        return len(self.layers) * int(self._model.config.hidden_size)

    def encode(self, prompts: Sequence[str], progress: Progress | None = None) -> Encoded:
        """Return the pooled hidden states of each prompt.

        Args:
            prompts: Any text: the empty prompt, control characters and lone surrogates too.
            progress: Told how many prompts are done as they are.
        """
        features = np.zeros((len(prompts), self.width), np.float32)
        truncated = np.zeros(len(prompts), np.bool_)
        for first, sequences, cut in self._tokenised(prompts):
            truncated[first : first + len(cut)] = cut
            for batch in micro_batches([len(ids) for ids in sequences], TOKEN_BUDGET):
                rows = [first + position for position in batch]
                features[rows] = self._pooled([sequences[position] for position in batch])
                if progress:
                    progress(len(batch))
        return Encoded(features, truncated)

    def _tokenised(
        self, prompts: Sequence[str]
    ) -> Iterator[tuple[int, list[list[int]], list[bool]]]:
        """Tokenise one chunk ahead in a thread (it lets go of the GIL) while the model computes."""
        starts = range(0, len(prompts), CHUNK_PROMPTS)
        with ThreadPoolExecutor(1) as pool:
            ahead = [
                pool.submit(self._tokenise, prompts[start : start + CHUNK_PROMPTS])
                for start in starts[:1]
            ]
            for start in starts:
                sequences, cut = ahead.pop().result()
                following = start + CHUNK_PROMPTS
                if following < len(prompts):
                    chunk = prompts[following : following + CHUNK_PROMPTS]
                    ahead.append(pool.submit(self._tokenise, chunk))
                yield start, sequences, cut

    def _tokenise(self, prompts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        texts = [bounded(clean(prompt)) for prompt in prompts]
        encoded = self._tokenizer(
            [text for text, _ in texts], add_special_tokens=False, verbose=False
        )["input_ids"]
        fitted = [self.window.fit(ids) for ids in encoded]
        cut = [short or long for (_, short), (_, long) in zip(texts, fitted, strict=True)]
        return [ids for ids, _ in fitted], cut

    @torch.inference_mode()
    def _pooled(self, sequences: Sequence[Sequence[int]]) -> Float32[np.ndarray, "batch features"]:
        longest = max(len(ids) for ids in sequences)
        ids = torch.zeros((len(sequences), longest), dtype=torch.long)
        mask = torch.zeros((len(sequences), longest), dtype=torch.long)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        ids, mask = ids.to(self._device), mask.to(self._device)
        states = self._model(
            input_ids=ids, attention_mask=mask, output_hidden_states=True
        ).hidden_states
        pooled = torch.cat([_mean(states[layer], mask) for layer in self.layers], dim=1)
        return np.asarray(pooled.float().cpu().numpy())


def _mean(
    states: Float[Tensor, "batch tokens width"], mask: Tensor
) -> Float[Tensor, "batch width"]:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _load(backbone: Backbone) -> tuple[Any, Any]:
    # Its bar would draw over our own.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    if backbone.path.is_file():
        where, options = backbone.path.parent, {"gguf_file": backbone.path.name}
    else:
        where, options = backbone.path, {}
    tokenizer = AutoTokenizer.from_pretrained(where, **options)
    model = AutoModel.from_pretrained(where, dtype=torch.float32, **options)
    return tokenizer, model.eval()


def _window(tokenizer: Any, model: Any) -> Window:  # noqa: ANN401 - transformers has no types
    prefix, suffix = _special_tokens(tokenizer)
    tokens = min(MAX_WINDOW_TOKENS, int(model.config.max_position_embeddings))
    return Window(tokens, prefix, suffix)


def _special_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:  # noqa: ANN401
    """Read the tokens around a text off an empty one; a bare decoder starts with its end token."""
    around = tuple(tokenizer("")["input_ids"])
    if not around:
        around = (tokenizer.bos_token_id or tokenizer.eos_token_id or 0,)
    return around[:1], around[1:]
