"""Results say how a deviation changes the expected quality, so that downgrades are cheap to count.

Revision ID: 0025
Revises: 0024
"""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

FILL = """
UPDATE results r SET quality_change = coalesce(r.expected_quality, (
    SELECT max(s.expected_quality) FROM assignments s
    WHERE s.batch_id = r.batch_id AND s.job_no = r.job_no AND s.model = r.model)) - (
    SELECT s.expected_quality FROM assignments s
    WHERE s.batch_id = r.batch_id AND s.job_no = r.job_no ORDER BY revision LIMIT 1)
WHERE r.reason IS NOT NULL
"""


def upgrade() -> None:
    op.add_column("results", sa.Column("quality_change", sa.REAL(), nullable=True, comment="Expected quality less the planned model's; null where the planned model answered"))
    op.execute(FILL)
    op.drop_index("results_deviations", "results")
    op.create_index("results_deviations", "results", ["batch_id", "reason", "quality_change"], postgresql_where=sa.text("reason IS NOT NULL"))
    op.create_index("results_unanswered", "results", ["batch_id", "status"], postgresql_where=sa.text("status <> 'succeeded'"))


def downgrade() -> None:
    op.drop_index("results_unanswered", "results")
    op.drop_index("results_deviations", "results")
    op.create_index("results_deviations", "results", ["batch_id"], postgresql_where=sa.text("reason IS NOT NULL"))
    op.drop_column("results", "quality_change")
