"""What drops the money of shards that are done serves the schema's own tables alone.

It runs as its owner, and everybody may call it by a trigger on a table of their own. Temporary
tables come first in a search path that doesn't name them.

Revision ID: 0041
Revises: 0040
"""

import sqlalchemy as sa
from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

# The guard and no REVOKE: dumps are made and restored without privileges.
_FUNCTION = """
CREATE OR REPLACE FUNCTION keep_nothing_once_done() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = {schema}, pg_temp AS $$
BEGIN
    IF TG_RELID <> 'shards'::regclass THEN
        RAISE insufficient_privilege USING MESSAGE = 'permission denied: a trigger of shards alone';
    END IF;
    UPDATE ledgers SET fallback_usd = greatest(fallback_usd - NEW.fallback_usd, 0)
    WHERE batch_id = NEW.batch_id;
    NEW.fallback_usd := 0;
    RETURN NEW;
END
$$
"""


def upgrade() -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(_FUNCTION.format(schema=schema))


def downgrade() -> None:
    """Leave it: it does what that of 0040 does, and its downgrade removes it."""
