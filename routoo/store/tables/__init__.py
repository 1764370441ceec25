"""Defines every table as a SQLModel class: the schema of record.

Hot paths speak SQL through psycopg; these classes say what the columns are, and a test proves that
the migrations produce exactly them. `batches`, `shards`, `jobs`, `predictions`, `assignments`,
`attempts` and `results` and the view `batch_results` are public: people poll them with SQL.
"""
