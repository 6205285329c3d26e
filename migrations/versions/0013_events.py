"""Events that happen more than once in a run, several webhooks for one batch, and the order in which items end.

Revision: 0013
"""

from alembic import op

revision = "0013"
down_revision = "0014"
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

    op.execute(
        """
        CREATE TABLE result_log (
            batch_id UUID NOT NULL,
            run SMALLINT NOT NULL,
            upto INTEGER NOT NULL,
            ordinals INTEGER[] NOT NULL,
            at timestamptz DEFAULT now() NOT NULL,
            CONSTRAINT result_log_pkey PRIMARY KEY (batch_id, run, upto)
        )
        PARTITION BY RANGE (batch_id)
        """
    )
    op.execute(_PARTITIONS)
    op.execute(_BACKFILL)


# One beside each of the results, with its bounds.
_PARTITIONS = """
DO $$
DECLARE part record;
BEGIN
    FOR part IN
        SELECT c.relname, pg_get_expr(c.relpartbound, c.oid) AS bound
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'result'::regclass
    LOOP
        EXECUTE format(
            'CREATE TABLE %I PARTITION OF result_log %s',
            regexp_replace(part.relname, '^result', 'result_log'), part.bound
        );
    END LOOP;
END $$
"""
# Results of one transaction have its time in common.
_BACKFILL = """
INSERT INTO result_log (batch_id, run, upto, ordinals, at)
SELECT batch_id, run, sum(count) OVER (PARTITION BY batch_id ORDER BY at), ordinals, at FROM (
    SELECT r.batch_id, b.run, count(*), array_agg(r.ordinal ORDER BY r.ordinal) AS ordinals, r.processed_at AS at
    FROM result r JOIN batch b ON b.id = r.batch_id GROUP BY r.batch_id, b.run, r.processed_at
) ended
"""


def downgrade() -> None:
    """What the earlier version could not send or tell apart goes."""
    op.execute("DROP TABLE result_log CASCADE")
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
