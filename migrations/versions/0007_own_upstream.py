"""Batches that bring a key or a model of their own for the model's endpoint.

Revision: 0007
"""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE batch ADD COLUMN upstream TEXT, ADD COLUMN upstream_key BYTEA")


def downgrade() -> None:
    op.execute("ALTER TABLE batch DROP COLUMN upstream, DROP COLUMN upstream_key")
