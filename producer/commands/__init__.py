"""The commands of `routoo-producer`: a file has a command's options, the command and its output.

A command imports what it works with when it runs: a help page appears without a database driver,
rich or Arrow.
"""
