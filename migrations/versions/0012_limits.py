"""Failure thresholds and budgets of batches; rate limits and quotas of tenants.

Revision: 0012
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        ALTER TABLE batch ADD COLUMN paused_by TEXT,
            DROP CONSTRAINT batch_ending_check,
            ADD CONSTRAINT batch_ending_check CHECK (ending IN ('cancel', 'deadline', 'threshold', 'budget')),
            ADD CONSTRAINT batch_paused_by_check
                CHECK (paused_by IS NULL OR (status = 'paused' AND paused_by IN ('threshold', 'budget')))
        """
    )
    op.execute(
        """
        ALTER TABLE batch_count ADD COLUMN failure_ratio NUMERIC, ADD COLUMN failure_minimum INTEGER,
            ADD COLUMN failure_action TEXT, ADD COLUMN max_tokens BIGINT, ADD COLUMN budget_action TEXT,
            ADD COLUMN finished_from INTEGER DEFAULT 0 NOT NULL, ADD COLUMN failed_from INTEGER DEFAULT 0 NOT NULL,
            ADD COLUMN tokens_from BIGINT DEFAULT 0 NOT NULL, ADD COLUMN exceeded TEXT,
            ADD CONSTRAINT batch_count_failure_ratio_check
                CHECK (failure_ratio BETWEEN 0 AND 1 AND failure_minimum >= 1),
            ADD CONSTRAINT batch_count_failure_threshold_check
                CHECK (num_nulls(failure_ratio, failure_minimum, failure_action) IN (0, 3)),
            ADD CONSTRAINT batch_count_budget_check CHECK (num_nulls(max_tokens, budget_action) IN (0, 2)),
            ADD CONSTRAINT batch_count_action_check
                CHECK (failure_action IN ('pause', 'fail') AND budget_action IN ('pause', 'fail')),
            ADD CONSTRAINT batch_count_exceeded_check CHECK (exceeded IN ('threshold', 'budget'))
        """
    )
    op.execute("CREATE INDEX batch_count_exceeded_idx ON batch_count (batch_id) WHERE exceeded IS NOT NULL")
    op.execute("ALTER TABLE batch_schedule ADD COLUMN limited BOOLEAN DEFAULT false NOT NULL")
    op.execute("CREATE INDEX span_suspect_idx ON span (batch_id) WHERE losses >= 2")


def downgrade() -> None:
    op.execute("DROP INDEX span_suspect_idx")
    op.execute("ALTER TABLE batch_schedule DROP COLUMN limited")
    op.execute(
        """
        ALTER TABLE batch_count DROP COLUMN failure_ratio, DROP COLUMN failure_minimum, DROP COLUMN failure_action,
            DROP COLUMN max_tokens, DROP COLUMN budget_action, DROP COLUMN finished_from, DROP COLUMN failed_from,
            DROP COLUMN tokens_from, DROP COLUMN exceeded
        """
    )
    op.execute("UPDATE batch SET ending = 'deadline' WHERE ending IN ('threshold', 'budget')")
    op.execute(
        """
        ALTER TABLE batch DROP COLUMN paused_by,
            DROP CONSTRAINT batch_ending_check,
            ADD CONSTRAINT batch_ending_check CHECK (ending IN ('cancel', 'deadline'))
        """
    )
