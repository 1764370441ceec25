"""Keys of the gateway's users, each with what it may spend a day.

Revision ID: 0026
Revises: 0025
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

# Whatever moves a batch's money moves its key's: in the same transaction, under the same constraint.
# What is settled after midnight counts as spent on the new day.
_MOVE = """
CREATE FUNCTION move_key_money() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
    UPDATE key_ledgers SET
        reserved_usd = reserved_usd + NEW.reserved_usd - OLD.reserved_usd,
        spent_usd = CASE day WHEN today THEN spent_usd ELSE 0 END + NEW.spent_usd - OLD.spent_usd,
        overrun_usd = CASE day WHEN today THEN overrun_usd ELSE 0 END
            + NEW.overrun_usd - OLD.overrun_usd,
        day = today
    WHERE key_id = NEW.key_id;
    RETURN NULL;
END
$$
"""


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.Uuid(), nullable=False, comment="Key of the row"),
        sa.Column("name", sa.Text(), nullable=False, comment="What people call it"),
        sa.Column("key_sha256", sa.Text(), nullable=False, comment="SHA-256 of the key: 256 random bits need no slower hash"),
        sa.Column("scopes", postgresql.ARRAY(sa.Text()), nullable=False, comment="What it allows: read, submit, admin"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When the row was written"),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True), nullable=True, comment="When it stopped to work"),
        sa.CheckConstraint("scopes <@ ARRAY['read', 'submit', 'admin'] AND cardinality(scopes) > 0", name="api_keys_scopes"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name", name="api_keys_name"),
        sa.UniqueConstraint("key_sha256", name="api_keys_key_sha256"),
        comment="Keys of the gateway's users, hashed",
    )
    op.create_table(
        "key_ledgers",
        sa.Column("key_id", sa.Uuid(), nullable=False, comment="The key"),
        sa.Column("limit_usd", sa.Numeric(), nullable=True, comment="Most it may spend a day; null = none"),
        sa.Column("day", sa.Date(), server_default=sa.text("(now() AT TIME ZONE 'UTC')::date"), nullable=False, comment="The day that spent and overrun are of"),
        sa.Column("reserved_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False, comment="Worst case of its calls in flight, of whatever day"),
        sa.Column("spent_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False, comment="Cost of the calls settled that day"),
        sa.Column("overrun_usd", sa.Numeric(), server_default=sa.text("0"), nullable=False, comment="What endpoints billed that day beyond the worst case of a call"),
        sa.CheckConstraint("limit_usd >= 0 AND limit_usd < 'Infinity'", name="key_ledgers_limit"),
        sa.CheckConstraint("reserved_usd >= 0 AND spent_usd >= 0 AND overrun_usd >= 0", name="key_ledgers_positive"),
        sa.CheckConstraint("limit_usd IS NULL OR reserved_usd + spent_usd <= limit_usd", name="key_ledgers_budget"),
        sa.ForeignKeyConstraint(["key_id"], ["api_keys.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("key_id"),
        comment="Money of a key on one day (UTC)",
        postgresql_with={"fillfactor": 50},
    )
    op.add_column("ledgers", sa.Column("key_id", sa.Uuid(), sa.ForeignKey("api_keys.id", name="ledgers_key"), nullable=True, comment="Key whose daily limit its calls count against, by a trigger"))
    op.execute(_MOVE)
    op.execute(
        "CREATE TRIGGER ledgers_move_key_money AFTER UPDATE OF reserved_usd, spent_usd, overrun_usd ON ledgers"
        " FOR EACH ROW WHEN (NEW.key_id IS NOT NULL) EXECUTE FUNCTION move_key_money()"
    )


def downgrade() -> None:
    op.execute("DROP TRIGGER ledgers_move_key_money ON ledgers")
    op.execute("DROP FUNCTION move_key_money()")
    op.drop_column("ledgers", "key_id")
    op.drop_table("key_ledgers")
    op.drop_table("api_keys")
