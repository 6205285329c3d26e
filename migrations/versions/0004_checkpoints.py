"""Checkpoints of items, and the secrets of a batch's configuration.

Revision: 0004
Revises: 0002
"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE item_checkpoint (
            batch_id UUID NOT NULL,
            ordinal INTEGER NOT NULL,
            stage TEXT NOT NULL,
            done INTEGER DEFAULT 0 NOT NULL,
            total INTEGER,
            data TEXT,
            updated_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT item_checkpoint_pkey PRIMARY KEY (batch_id, ordinal),
            CONSTRAINT item_checkpoint_done_check CHECK (done >= 0 AND done <= total)
        )
        PARTITION BY RANGE (batch_id)
        """
    )
    op.execute("ALTER TABLE batch ADD COLUMN config_secrets BYTEA")


def downgrade() -> None:
    op.execute("ALTER TABLE batch DROP COLUMN config_secrets")
    op.execute("DROP TABLE item_checkpoint CASCADE")
