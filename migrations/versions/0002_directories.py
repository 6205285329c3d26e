"""Directories; what is counted of files; bytes that are to go.

Revision: 0002
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

UP = (
    "ALTER TABLE file ADD COLUMN purpose TEXT, ADD COLUMN source_url TEXT, ADD COLUMN lines BIGINT, "
    "ADD COLUMN records BIGINT, ADD COLUMN expires_at timestamptz",
    "CREATE INDEX file_expires_at_idx ON file (expires_at) WHERE expires_at IS NOT NULL",
    """
    CREATE TABLE file_discard (
        file_id UUID NOT NULL,
        tenant_id UUID NOT NULL,
        due_at timestamptz NOT NULL,
        CONSTRAINT file_discard_pkey PRIMARY KEY (file_id)
    )
    """,
    "CREATE INDEX file_discard_due_at_idx ON file_discard (due_at)",
    """
    CREATE TABLE directory (
        id UUID NOT NULL,
        tenant_id UUID NOT NULL,
        name TEXT NOT NULL,
        created_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT directory_pkey PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX directory_tenant_id_id_idx ON directory (tenant_id, id)",
    """
    CREATE TABLE directory_file (
        directory_id UUID NOT NULL,
        file_id UUID NOT NULL,
        name TEXT NOT NULL,
        added_at timestamptz DEFAULT now() NOT NULL,
        CONSTRAINT directory_file_pkey PRIMARY KEY (directory_id, file_id)
    )
    """,
    "CREATE INDEX directory_file_file_id_idx ON directory_file (file_id)",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    for table in ("directory_file", "directory", "file_discard"):
        op.execute(f"DROP TABLE {table}")
    op.execute("DROP INDEX file_expires_at_idx")
    op.execute(
        "ALTER TABLE file DROP COLUMN purpose, DROP COLUMN source_url, DROP COLUMN lines, DROP COLUMN records, "
        "DROP COLUMN expires_at"
    )
