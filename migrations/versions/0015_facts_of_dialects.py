"""What a dialect keeps of directories, the files in them, and configurations that were made through it.

Revision: 0015
"""

from alembic import op

revision = "0015"
down_revision = "0010"
branch_labels = None
depends_on = None

_TABLES = ("configuration", "directory", "directory_file")


def upgrade() -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} ADD COLUMN dialect_facts TEXT")


def downgrade() -> None:
    for table in _TABLES:
        op.execute(f"ALTER TABLE {table} DROP COLUMN dialect_facts")
