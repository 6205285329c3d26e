"""What a dialect keeps of a batch that was made through it.

Revision: 0010
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE batch ADD COLUMN dialect TEXT, ADD COLUMN dialect_key TEXT, ADD COLUMN dialect_facts TEXT"
    )
    op.execute("CREATE INDEX batch_dialect_idx ON batch (tenant_id, dialect, id) WHERE dialect IS NOT NULL")
    op.execute(
        "CREATE UNIQUE INDEX batch_dialect_key_idx ON batch (tenant_id, dialect, dialect_key) "
        "WHERE dialect_key IS NOT NULL"
    )


def downgrade() -> None:
    op.execute("ALTER TABLE batch DROP COLUMN dialect, DROP COLUMN dialect_key, DROP COLUMN dialect_facts")
