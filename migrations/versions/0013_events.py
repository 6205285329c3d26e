"""Events that happen more than once in a run, and several webhooks for one batch.

Revision: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE batch ADD COLUMN webhooks TEXT")
    op.execute("ALTER TABLE event ADD COLUMN occurrence INTEGER DEFAULT 1 NOT NULL")
    op.execute(
        "CREATE UNIQUE INDEX event_batch_id_type_run_occurrence_idx ON event (batch_id, type, run, occurrence)"
    )
    op.execute("DROP INDEX event_batch_id_type_run_idx")
    op.execute(
        "ALTER TABLE delivery ADD COLUMN hook SMALLINT, ADD COLUMN signatures TEXT[], ADD COLUMN body TEXT"
    )


def downgrade() -> None:
    """What the earlier version could not send or tell apart goes."""
    gone = "SELECT d.id FROM delivery d JOIN event e ON e.id = d.event_id WHERE d.hook IS NOT NULL OR e.occurrence > 1"
    op.execute(f"CREATE TEMPORARY TABLE gone ON COMMIT DROP AS {gone}")
    op.execute("DELETE FROM delivery_attempt WHERE delivery_id IN (SELECT id FROM gone)")
    op.execute("DELETE FROM delivery WHERE id IN (SELECT id FROM gone)")
    op.execute("ALTER TABLE delivery DROP COLUMN hook, DROP COLUMN signatures, DROP COLUMN body")
    op.execute("DROP INDEX event_batch_id_type_run_occurrence_idx")
    op.execute("DELETE FROM event WHERE occurrence > 1")
    op.execute("ALTER TABLE event DROP COLUMN occurrence")
    op.execute("CREATE UNIQUE INDEX event_batch_id_type_run_idx ON event (batch_id, type, run)")
    op.execute("ALTER TABLE batch DROP COLUMN webhooks")
