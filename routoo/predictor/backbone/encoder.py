"""Turns prompts into feature vectors: hidden states of a language model, pooled over tokens."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from routoo.errors import CheckpointError, InputError
from routoo.predictor.backbone.batching import (
    Tokens,
    TokenWindow,
    bounded,
    choose_transfer,
    clean,
    compute_batches,
    compute_in_threads,
    micro_batches,
    string_sha256,
)
from routoo.predictor.backbone.language_model import (
    Backbone,
    compile_layers,
    drop_layers,
    is_decoder,
    load_language_model,
)
from routoo.predictor.backbone.lora import arrays_sha256, merge_adapters
from routoo.predictor.options import Pooling, Reading

MAX_WINDOW_TOKENS = 512
"""Longest sequence that is scored: longer ones cost more time than they improve estimates."""
TOKEN_BUDGET = 4096
"""Padded tokens of a micro-batch: fills a CPU's caches and keeps memory small."""
CHUNK_PROMPTS = 2048
"""Prompts sorted by length together: bounds memory whatever the size of the input."""

Progress = Callable[[int], None]
"""Called with the number of prompts that were done since the last call."""

States = Float[Tensor, "batch tokens width"]
Mask = Int[Tensor, "batch tokens"]
"""1 where there is a token, 0 for padding at the end."""
Pooler = Callable[[States, Mask], Float[Tensor, "batch features"]]


@dataclass(frozen=True, slots=True)
class EncodedPrompts:
    """The features of some prompts, and which of them were cut to the window."""

    features: Float32[np.ndarray, "prompts features"]
    truncated: Bool[np.ndarray, " prompts"]


class Encoder:
    """Turns prompts into vectors by a frozen language model.

    A prompt's vector doesn't depend on which other prompts are in its batch: on a CPU these are
    equally long, so that its sums are made in the same order. On a GPU, where small batches cost
    more, they are padded, and a vector in bfloat16 can change in its third digit with them.

    Args:
        backbone: Where the model lies.
        reading: Which hidden states are pooled, and how.
        device: Device to compute on, in torch's words.
        threads: Most threads that read prompts on a CPU; None for as many as torch uses.

    Raises:
        CheckpointError: The backbone can't be loaded, or has no such hidden state.
        InputError: The text after every prompt leaves them no room.
    """

    def __init__(
        self,
        backbone: Backbone,
        reading: Reading | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
    ) -> None:
        reading = reading or Reading()
        self.backbone, self._most_threads = backbone, threads
        torch_device = torch.device(device)
        self._transfer = choose_transfer(torch_device)
        self._padded = torch_device.type != "cpu"
        self._tokenizer, self.model = load_language_model(backbone, torch_device, reading.precision)
        self._decodes = is_decoder(self.model.config)
        usual = Pooling.LAST if self._decodes else Pooling.MEAN
        self.reading = replace(
            reading,
            layers=_layers(reading.layers, int(self.model.config.num_hidden_layers)),
            pooling=reading.pooling or usual,
        )
        drop_layers(self.model, above=max(self.layers))
        if reading.compiled:
            compile_layers(self.model)
        # A decoder's first token takes the attention that nothing else wants: its state is large
        # and carries no meaning (Xiao et al. 2024, attention sinks).
        self._pool = choose_pooler(self.pooling, skip_first=self._decodes)
        self.window = _window(self._tokenizer, self.model, reading.suffix)
        self.adapters: Mapping[str, np.ndarray] = {}

    @property
    def layers(self) -> tuple[int, ...]:
        """Hidden states that are pooled."""
        return self.reading.layers or ()

    @property
    def pooling(self) -> Pooling:
        """How they are pooled."""
        return self.reading.pooling or Pooling.MEAN

    @property
    def width(self) -> int:
        """Features a prompt."""
        vectors = 2 if self.pooling is Pooling.BOTH else 1
        return len(self.layers) * vectors * int(self.model.config.hidden_size)

    @property
    def identity(self) -> str:
        """Name of what it computes; it changes with the backbone, the pooling and the adapters."""
        layers = "-".join(map(str, self.layers))
        model = f"{self.backbone.weights_sha256[:16]}-{self.backbone.reader_sha256[:8]}"
        name = f"{model}-layers{layers}-window{self.window.tokens}"
        if self.pooling is not Pooling.MEAN:
            name += f"-{self.pooling}"
        if self.reading.suffix:
            name += f"-suffix{string_sha256(self.reading.suffix)[:16]}"
        if self.model.dtype is not torch.float32:
            name += f"-{str(self.model.dtype).rpartition('.')[2]}"
        if self.adapters:
            name += f"-adapted{arrays_sha256(self.adapters)[:16]}"
        return name

    def adapt(self, adapters: Mapping[str, np.ndarray]) -> None:
        """Add adapters to the model's weights.

        Raises:
            CheckpointError: They are not of this model.
        """
        merge_adapters(self.model, adapters)
        self.adapters = adapters

    def encode(self, prompts: Sequence[str], progress: Progress | None = None) -> EncodedPrompts:
        """Return the pooled hidden states of each prompt.

        Args:
            prompts: Any text: the empty prompt, control characters and lone surrogates too.
            progress: Called with the number of prompts that were done since its last call.
        """
        features = np.zeros((len(prompts), self.width), np.float32)
        truncated = np.zeros(len(prompts), np.bool_)
        for rows, vectors in self._computed(prompts, truncated):
            features[rows] = vectors
            if progress:
                progress(len(rows))
        return EncodedPrompts(features, truncated)

    def _computed(
        self, prompts: Sequence[str], truncated: Bool[np.ndarray, " prompts"]
    ) -> Iterator[tuple[list[int], Float32[np.ndarray, "batch features"]]]:
        batches, threads = self._batches(prompts, truncated), torch.get_num_threads()
        most = threads if self._most_threads is None else self._most_threads
        # transformers collects hidden states by thread, but not those of compiled layers.
        if self._padded or self.reading.compiled or threads == 1:
            return compute_batches(batches, self._states, self._transfer)
        return compute_in_threads(batches, self._states, min(threads, most, max(len(prompts), 1)))

    def _batches(
        self, prompts: Sequence[str], truncated: Bool[np.ndarray, " prompts"]
    ) -> Iterator[tuple[list[int], list[list[int]]]]:
        """Yield the rows and tokens of micro-batches; note which prompts were cut."""
        for first, sequences, cut in self._tokenised(prompts):
            truncated[first : first + len(cut)] = cut
            lengths = [len(ids) for ids in sequences]
            for batch in micro_batches(lengths, TOKEN_BUDGET, padded=self._padded):
                rows = [first + position for position in batch]
                yield rows, [sequences[position] for position in batch]

    def _tokenised(
        self, prompts: Sequence[str]
    ) -> Iterator[tuple[int, list[list[int]], list[bool]]]:
        """Tokenise one chunk ahead in a thread (it lets go of the GIL) while the model computes."""
        starts = range(0, len(prompts), CHUNK_PROMPTS)
        with ThreadPoolExecutor(1) as pool:
            ahead = [
                pool.submit(self.tokenise, prompts[start : start + CHUNK_PROMPTS])
                for start in starts[:1]
            ]
            for start in starts:
                sequences, cut = ahead.pop().result()
                following = start + CHUNK_PROMPTS
                if following < len(prompts):
                    chunk = prompts[following : following + CHUNK_PROMPTS]
                    ahead.append(pool.submit(self.tokenise, chunk))
                yield start, sequences, cut

    @torch.inference_mode()
    def _states(self, sequences: Tokens) -> Float[Tensor, "batch features"]:
        return self.states(sequences)

    def states(self, sequences: Tokens) -> Float[Tensor, "batch features"]:
        """Return the pooled hidden states of token sequences, on the device, with gradients."""
        ids, mask = self._transfer.upload(sequences)
        # Padding is at the end, which no token of a decoder attends to: without a mask attention is
        # PyTorch's causal kernel, which skips half of the pairs.
        states = self.model(
            input_ids=ids,
            attention_mask=None if self._decodes else mask,
            output_hidden_states=True,
            **({"use_cache": False} if self._decodes else {}),
        ).hidden_states
        return torch.cat([self._pool(states[layer].float(), mask) for layer in self.layers], dim=1)

    def tokenise(self, prompts: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return each prompt's tokens as the model sees them, and whether they were cut."""
        texts = [bounded(clean(prompt)) for prompt in prompts]
        encoded = self._tokenizer(
            [text for text, _ in texts], add_special_tokens=False, verbose=False
        )["input_ids"]
        fitted = [self.window.enclose(ids) for ids in encoded]
        cut = [short or long for (_, short), (_, long) in zip(texts, fitted, strict=True)]
        return [ids for ids, _ in fitted], cut


def _layers(layers: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    if layers is None:
        return tuple(round(depth * third / 3) for third in (1, 2, 3))
    wrong = [layer for layer in layers if not 0 <= layer <= depth]
    if wrong or not layers:
        raise CheckpointError(
            "the backbone has no such hidden state",
            value=wrong,
            remedy=f"Name layers from 0 (token embeddings) to {depth}",
        )
    return tuple(layers)


def _window(tokenizer: Any, model: Any, suffix: str) -> TokenWindow:
    before, after = _special_tokens(tokenizer)
    cue = tuple(tokenizer(suffix, add_special_tokens=False)["input_ids"]) if suffix else ()
    tokens = min(MAX_WINDOW_TOKENS, int(model.config.max_position_embeddings))
    window = TokenWindow(tokens, before, (*cue, *after))
    if window.room < tokens // 2:
        raise InputError(
            "the suffix leaves too little room for prompts",
            value=f"{len(cue)} of {tokens} tokens",
            where="--suffix",
            remedy="Give a shorter one",
        )
    return window


def _special_tokens(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens around a text, read off an empty text.

    A decoder without special tokens starts with its end token.
    """
    around = tuple(tokenizer("")["input_ids"])
    if not around:
        known = (tokenizer.bos_token_id, tokenizer.eos_token_id, 0)
        around = (next(token for token in known if token is not None),)
    return around[:1], around[1:]


def choose_pooler(pooling: Pooling, *, skip_first: bool) -> Pooler:
    """Return the function that pools hidden states of tokens into one vector a prompt.

    Args:
        pooling: How.
        skip_first: Leave the first token out of a mean, where it is not the only one.
    """
    mean = _mean_of_rest if skip_first else _mean
    if pooling is Pooling.BOTH:
        return partial(_both, mean)
    return _last if pooling is Pooling.LAST else mean


def _mean(states: States, mask: Mask) -> Float[Tensor, "batch width"]:
    weights = mask.unsqueeze(-1).to(states.dtype)
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def _mean_of_rest(states: States, mask: Mask) -> Float[Tensor, "batch width"]:
    rest = mask.clone()
    rest[:, 0] = (mask.sum(1) == 1).to(mask.dtype)
    return _mean(states, rest)


def _last(states: States, mask: Mask) -> Float[Tensor, "batch width"]:
    rows = torch.arange(len(states), device=states.device)
    return states[rows, mask.sum(1) - 1]


def _both(mean: Pooler, states: States, mask: Mask) -> Float[Tensor, "batch features"]:
    return torch.cat([mean(states, mask), _last(states, mask)], dim=1)
