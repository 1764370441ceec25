"""What endpoints were found to do is kept for all dispatchers.

Revision ID: 0019
Revises: 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "endpoint_behaviour",
        sa.Column("endpoint", sa.Text(), nullable=False, comment="Base URL, model and name of the key"),
        sa.Column("limit_field", sa.Text(), nullable=True, comment="Field that limits its answers, by its refusals; null = it refused none"),
        sa.Column("extra_prompt_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Most prompt tokens billed beyond a call's bound"),
        sa.Column("extra_completion_tokens", sa.Integer(), server_default=sa.text("0"), nullable=False, comment="Most completion tokens billed beyond a call's bound"),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False, comment="When that was last found"),
        sa.CheckConstraint("limit_field IN ('max_tokens', 'max_completion_tokens', 'none')", name="endpoint_behaviour_limit_field"),
        sa.PrimaryKeyConstraint("endpoint"),
        comment="What endpoints were found to do that pools don't say; delete a row once it is mended",
    )


def downgrade() -> None:
    op.drop_table("endpoint_behaviour")
