"""Who may not write results changes no shard of a later stage, and no batch but to fail it.

A scorer's role has to change shards and the state of batches; rights by column can't tell which. A
scorer may let the selection become ready, and let a batch fail that it can't score.

Revision ID: 0042
Revises: 0041
"""

import sqlalchemy as sa
from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

_FUNCTION = """
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE insufficient_privilege USING MESSAGE = format(
        'permission denied: who may not write results changes no such row of %s', TG_TABLE_NAME);
END
$$
"""
# The table by its schema: a temporary one of the same name comes first in every search path.
_MAY_NOT_WRITE_RESULTS = "NOT has_table_privilege('{schema}.results'::regclass, 'INSERT')"
_SHARDS = f"""
CREATE TRIGGER shards_change_in_their_stage BEFORE UPDATE ON shards FOR EACH ROW
WHEN (OLD.stage <> 'score' AND {_MAY_NOT_WRITE_RESULTS}
      AND NOT (OLD.stage = 'select' AND OLD.state = 'blocked' AND NEW.state = 'ready'))
EXECUTE FUNCTION refuse_change()
"""
_BATCHES = f"""
CREATE TRIGGER batches_end_by_those_who_may BEFORE UPDATE ON batches FOR EACH ROW
WHEN ((NEW.status, NEW.completed_at) IS DISTINCT FROM (OLD.status, OLD.completed_at)
      AND {_MAY_NOT_WRITE_RESULTS}
      AND NOT (OLD.status IN ('planning', 'in_progress') AND NEW.status = 'failed'))
EXECUTE FUNCTION refuse_change()
"""


def upgrade() -> None:
    schema = op.get_bind().scalar(sa.text("SELECT quote_ident(current_schema())"))
    op.execute(_FUNCTION)
    op.execute(_SHARDS.format(schema=schema))
    op.execute(_BATCHES.format(schema=schema))


def downgrade() -> None:
    op.execute("DROP TRIGGER batches_end_by_those_who_may ON batches")
    op.execute("DROP TRIGGER shards_change_in_their_stage ON shards")
    op.execute("DROP FUNCTION refuse_change()")
