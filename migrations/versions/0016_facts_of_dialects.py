"""What a dialect keeps of directories, the files in them, and configurations that were made through it; and endpoints of
webhooks that are kept to be named by batches.

Revision: 0016
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_TABLES = ("configuration", "directory", "directory_file")


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ADD COLUMN dialect_facts TEXT")
    op.execute(
        """
        CREATE TABLE webhook_endpoint (
            id UUID PRIMARY KEY,
            tenant_id UUID NOT NULL,
            url TEXT NOT NULL,
            sealed BYTEA,
            dialect_facts TEXT,
            created_at TIMESTAMPTZ DEFAULT now() NOT NULL,
            updated_at TIMESTAMPTZ DEFAULT now() NOT NULL
        )
        """
    )
    op.execute("CREATE INDEX webhook_endpoint_tenant_id_id_idx ON webhook_endpoint (tenant_id, id)")


def downgrade() -> None:
    op.execute("DROP TABLE webhook_endpoint")
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} DROP COLUMN dialect_facts")
