"""What is true of every batch, in PostgreSQL; one module an aggregate, rows never leave it."""
