"""The store: batches, facts and leases in PostgreSQL; rows never leave it."""
