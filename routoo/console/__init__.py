"""Gives the command lines what they share: lazy commands, running, exit codes, output, formats.

Both `routoo` and `routoo-producer` stand on it, and `routoo-worker` where it needs to. It is the
only room of the library, beside `routoo.cli`, that knows the command-line library (typer). Its
modules import nothing heavy, so that a help page appears at once.
"""
