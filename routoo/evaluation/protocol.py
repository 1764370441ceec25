"""Names the evaluation protocols, in a module that imports nothing heavy."""

from enum import StrEnum


class Protocol(StrEnum):
    """How items are held out; each is held out once."""

    RANDOM = "random"
    """Five random parts; equal questions and questions on one passage stay together."""
    DOMAINS = "domains"
    """Five parts of whole domains: nothing of a domain is known when it is asked about."""
    DATASETS = "datasets"
    """Each dataset in its turn: a fit on all other datasets."""
