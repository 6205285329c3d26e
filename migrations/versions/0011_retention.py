"""How long an ended batch is kept, what stays of it afterwards, and rows that wait to be erased.

Revision: 0011
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE batch ADD COLUMN retention_days SMALLINT DEFAULT 30 NOT NULL")
    op.execute("ALTER TABLE batch ADD COLUMN expires_at timestamptz")
    op.execute(
        """
        UPDATE batch SET expires_at = coalesce(completed_at, cancelled_at) + make_interval(days => retention_days)
        WHERE status IN ('completed', 'failed', 'cancelled')
        """
    )
    op.execute(
        """
        ALTER TABLE batch
            ADD CONSTRAINT batch_retention_days_check CHECK (retention_days BETWEEN 1 AND 3650),
            ADD CONSTRAINT batch_expires_at_check
                CHECK ((status IN ('completed', 'failed', 'cancelled')) = (expires_at IS NOT NULL))
        """
    )
    op.execute("CREATE INDEX batch_expires_at_idx ON batch (expires_at) WHERE expires_at IS NOT NULL")
    op.execute(
        """
        CREATE TABLE batch_tombstone (
            id UUID NOT NULL,
            tenant_id UUID NOT NULL,
            status TEXT NOT NULL,
            processor TEXT NOT NULL,
            total INTEGER NOT NULL,
            success INTEGER NOT NULL,
            failed INTEGER NOT NULL,
            created_at timestamptz NOT NULL,
            ended_at timestamptz NOT NULL,
            expired_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT batch_tombstone_pkey PRIMARY KEY (id)
        )
        """
    )
    op.execute("CREATE INDEX batch_tombstone_expired_at_idx ON batch_tombstone (expired_at)")
    op.execute(
        """
        CREATE TABLE batch_remains (
            batch_id UUID NOT NULL,
            total INTEGER NOT NULL,
            erased INTEGER DEFAULT 0 NOT NULL,
            due_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT batch_remains_pkey PRIMARY KEY (batch_id)
        )
        """
    )
    op.execute("CREATE INDEX batch_remains_due_at_idx ON batch_remains (due_at)")


def downgrade() -> None:
    op.execute("DROP TABLE batch_remains")
    op.execute("DROP TABLE batch_tombstone")
    op.execute("ALTER TABLE batch DROP COLUMN retention_days, DROP COLUMN expires_at")
