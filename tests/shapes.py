"""How tests check the array shapes and types that signatures promise."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""An int is a float, as static checkers have it."""
