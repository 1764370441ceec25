"""The program `routoo`: one module a command, with its options and what it prints.

The work itself is done by the rooms below. A command imports what it needs when it runs, so that
help pages appear at once.
"""
