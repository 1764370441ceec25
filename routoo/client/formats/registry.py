"""Which format a model's endpoint speaks."""

from routoo.client.formats.openai import OpenAIFormat
from routoo.client.formats.wire_format import BatchFormat, WireFormat
from routoo.domain.pool import CandidateModel

_OPENAI = OpenAIFormat()


def format_of(model: CandidateModel) -> WireFormat:
    """Return the format that a model's endpoint speaks: OpenAI's, the only one known so far."""
    del model
    return _OPENAI


def batch_format_of(model: CandidateModel) -> BatchFormat:
    """Return the format of the batch API behind a model's batch channel.

    Raises:
        ValueError: The API has none.
    """
    batches = format_of(model).batches
    if batches is None:
        raise ValueError(f"the API of {model.name} has no batches")
    return batches
