"""Circuits: what a batch's items call, and which of it is closed off at the moment.

Revision: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE batch ADD COLUMN circuit TEXT")
    op.execute("ALTER TABLE batch_schedule ADD COLUMN circuit TEXT")
    op.execute(
        """
        CREATE TABLE circuit (
            tenant_id UUID NOT NULL,
            name TEXT NOT NULL,
            reason TEXT NOT NULL,
            until timestamptz NOT NULL,
            pause_seconds FLOAT NOT NULL,
            longest_seconds FLOAT NOT NULL,
            opened_at timestamptz DEFAULT now() NOT NULL,
            confirmed BOOLEAN DEFAULT false NOT NULL,
            CONSTRAINT circuit_pkey PRIMARY KEY (tenant_id, name),
            CONSTRAINT circuit_reason_check CHECK (reason IN ('throttled', 'down'))
        )
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE circuit")
    op.execute("ALTER TABLE batch_schedule DROP COLUMN circuit")
    op.execute("ALTER TABLE batch DROP COLUMN circuit")
