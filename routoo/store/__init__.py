"""Keeps what is true of every batch in PostgreSQL.

A module or package holds the statements of one aggregate and returns records, never rows.
"""
