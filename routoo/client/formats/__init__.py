"""Translates requests and answers: one module for each API that endpoints speak."""
