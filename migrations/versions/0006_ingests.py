"""Ingests: batches whose items are still in a file.

Revision: 0006
"""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE ingest (
            batch_id UUID NOT NULL,
            file_id UUID NOT NULL,
            options TEXT NOT NULL,
            attempts SMALLINT DEFAULT 0 NOT NULL,
            leased_until timestamptz,
            created_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT ingest_pkey PRIMARY KEY (batch_id)
        )
        """
    )
    op.execute("CREATE INDEX ingest_file_id_idx ON ingest (file_id)")


def downgrade() -> None:
    op.execute("DROP TABLE ingest")
