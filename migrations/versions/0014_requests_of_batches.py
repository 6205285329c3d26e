"""Requests that came with a create and are too many for it: bytes that belong to the batch until it is ingested.

Revision: 0014
"""

from alembic import op

revision = "0014"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE ingest ADD COLUMN owned BOOLEAN DEFAULT false NOT NULL")


def downgrade() -> None:
    op.execute("ALTER TABLE ingest DROP COLUMN owned")
