"""A dispatch shard that is done keeps no money, whatever version of the worker ended it.

Revision ID: 0040
Revises: 0039
"""

from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

# As its owner: the role of an older dispatcher may not write what a ledger keeps.
_FUNCTION = """
CREATE FUNCTION keep_nothing_once_done() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE ledgers SET fallback_usd = greatest(fallback_usd - NEW.fallback_usd, 0)
    WHERE batch_id = NEW.batch_id;
    NEW.fallback_usd := 0;
    RETURN NEW;
END
$$
"""
_TRIGGER = """
CREATE TRIGGER shards_keep_nothing_once_done BEFORE UPDATE OF state ON shards
FOR EACH ROW WHEN (NEW.state = 'done' AND NEW.fallback_usd > 0)
EXECUTE FUNCTION keep_nothing_once_done()
"""


def upgrade() -> None:
    op.execute(_FUNCTION)
    op.execute(_TRIGGER)


def downgrade() -> None:
    op.execute("DROP TRIGGER shards_keep_nothing_once_done ON shards")
    op.execute("DROP FUNCTION keep_nothing_once_done()")
