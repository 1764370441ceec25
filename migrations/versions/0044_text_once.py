"""A long answer stands in its row once: the response names it instead of holding it, too.

Rows that were written before stay as they are, and are read in the same way.

Revision ID: 0044
Revises: 0043
"""

from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None

_TABLES = ("results", "kept_answers", "response_cache")
_COMMENT = "The response; a first text of 200 characters or more stands in `answer` alone"


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"COMMENT ON COLUMN {table}.response IS '{_COMMENT}'")


def downgrade() -> None:
    """Programs of before would show the responses of long answers without their text."""
    for table in _TABLES:
        op.execute(f"COMMENT ON COLUMN {table}.response IS 'The whole response'")
