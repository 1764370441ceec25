"""The real programs as subprocesses; a package, so that the stack ends with its last test."""
