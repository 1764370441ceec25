"""The offline command line; the only room that knows the command-line library."""
