"""Configurations: named settings of a processor that batches take a copy of.

Revision: 0005
"""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE configuration (
            id UUID NOT NULL,
            tenant_id UUID NOT NULL,
            name TEXT NOT NULL,
            processor TEXT NOT NULL,
            config BYTEA NOT NULL,
            created_at timestamptz DEFAULT now() NOT NULL,
            updated_at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT configuration_pkey PRIMARY KEY (id)
        )
        """
    )
    op.execute("CREATE INDEX configuration_tenant_id_id_idx ON configuration (tenant_id, id)")
    op.execute("ALTER TABLE batch ADD COLUMN configuration_id TEXT")


def downgrade() -> None:
    op.execute("ALTER TABLE batch DROP COLUMN configuration_id")
    op.execute("DROP TABLE configuration")
