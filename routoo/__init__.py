"""Routoo, the batch LLM router.

Give it prompts and limits; it predicts how well every candidate model of a pool would answer each
prompt, picks the models that give the most quality within the limits, calls them, and leaves one
result a job in PostgreSQL. After "Routoo: Learning to Route to Large Language Models Effectively"
(arXiv 2401.13979).
"""
