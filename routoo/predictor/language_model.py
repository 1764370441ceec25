"""Loading a backbone's weights and tokenizer from this disk."""

from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from routoo.errors import CheckpointError
from routoo.predictor.backbone import Backbone


def load_language_model(backbone: Backbone, device: torch.device) -> tuple[Any, Any]:
    """Return a backbone's tokenizer and its model, ready to be asked.

    On a GPU it computes in bfloat16, on a CPU in single precision; attention is PyTorch's fused one
    where the model has it (transformers' default).

    Raises:
        CheckpointError: The files are damaged, or reading GGUF needs packages that aren't there.
    """
    # Its bar would draw over our own.
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    where, options = backbone.path, {}
    if backbone.path.is_file():
        where, options = backbone.path.parent, {"gguf_file": backbone.path.name}
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        model = AutoModel.from_pretrained(where, dtype=dtype, **options)
    except (ImportError, OSError, ValueError) as error:
        raise CheckpointError(
            "the backbone can't be loaded",
            where=str(backbone.path),
            value=str(error),
            remedy="Check its files; a GGUF file needs `pip install gguf accelerate`",
        ) from error
    return tokenizer, model.to(device).eval()


def is_decoder(model: Any) -> bool:  # noqa: ANN401 - transformers has no types
    """Tell whether the model was trained to continue text, so that only its last token saw all."""
    return any(name.endswith("ForCausalLM") for name in model.config.architectures or ())
