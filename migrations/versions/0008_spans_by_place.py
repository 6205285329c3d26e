"""Spans by their place in the batch: what a lost lease has to come is looked up without reading all that waits.

Revision: 0008
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX span_batch_id_last_idx ON span (batch_id, last)")


def downgrade() -> None:
    op.execute("DROP INDEX span_batch_id_last_idx")
