"""The stack that needs nothing preinstalled: PostgreSQL and a broker from wheels."""
