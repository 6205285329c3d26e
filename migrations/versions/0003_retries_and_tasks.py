"""Runs of a batch after its first, names of items, and the indexes that lists of tasks go by.

Revision: 0003
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

UP = (
    "ALTER TABLE batch ADD COLUMN first_lease_id BIGINT DEFAULT 0 NOT NULL",
    "ALTER TABLE batch_count ADD COLUMN kept INTEGER DEFAULT 0 NOT NULL",
    "ALTER TABLE batch_count ADD CONSTRAINT batch_count_kept_check CHECK (kept <= success + failed)",
    "ALTER TABLE item ADD COLUMN name TEXT",
    "ALTER TABLE item_attempt ADD COLUMN usage TEXT",
    "ALTER TABLE item_attempt ALTER COLUMN error DROP NOT NULL",
    "CREATE INDEX item_name_idx ON item (batch_id, ordinal) INCLUDE (name) WHERE name IS NOT NULL",
    "CREATE INDEX batch_tenant_id_collection_id_idx ON batch (tenant_id, collection, id)",
    "CREATE INDEX batch_tenant_id_created_by_id_idx ON batch (tenant_id, created_by, id)",
)
DOWN = (
    "DROP INDEX batch_tenant_id_created_by_id_idx",
    "DROP INDEX batch_tenant_id_collection_id_idx",
    "DROP INDEX item_name_idx",
    "UPDATE item_attempt SET error = 'null' WHERE error IS NULL",
    "ALTER TABLE item_attempt ALTER COLUMN error SET NOT NULL",
    "ALTER TABLE item_attempt DROP COLUMN usage",
    "ALTER TABLE item DROP COLUMN name",
    "ALTER TABLE batch_count DROP CONSTRAINT batch_count_kept_check",
    "ALTER TABLE batch_count DROP COLUMN kept",
    "ALTER TABLE batch DROP COLUMN first_lease_id",
)


def upgrade() -> None:
    for statement in UP:
        op.execute(statement)


def downgrade() -> None:
    """Attempts of runs that never ran lose their standard error; names of items are gone."""
    for statement in DOWN:
        op.execute(statement)
