"""Draws on terminals, with rich."""
