"""Serves the page, for a person to look at and to act on what all commands show."""
