"""Limits of the whole service: what a tenant, a processor, or an endpoint may have over all workers, and which worker has
what share of an endpoint's.

Revision: 0018
"""

from alembic import op

revision = "0018"
down_revision = "0016"
branch_labels = None
depends_on = None

_CHURNS = """
    fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 100,
    autovacuum_vacuum_cost_delay = 0
"""


def upgrade() -> None:
    op.execute(
        f"""
        CREATE TABLE service_limit (
            id UUID PRIMARY KEY,
            kind TEXT NOT NULL,
            name TEXT NOT NULL,
            max_in_flight INTEGER,
            requests_per_minute INTEGER,
            tokens_per_minute INTEGER,
            requests_left FLOAT DEFAULT 0 NOT NULL,
            tokens_left FLOAT DEFAULT 0 NOT NULL,
            refilled_at TIMESTAMPTZ DEFAULT now() NOT NULL,
            changed_at TIMESTAMPTZ DEFAULT now() NOT NULL,
            CONSTRAINT service_limit_kind_name_key UNIQUE (kind, name),
            CONSTRAINT service_limit_kind_check CHECK (kind IN ('tenant', 'processor', 'upstream')),
            CONSTRAINT service_limit_some_check
                CHECK (num_nonnulls(max_in_flight, requests_per_minute, tokens_per_minute) > 0),
            CONSTRAINT service_limit_rates_check
                CHECK (kind = 'upstream' OR num_nonnulls(requests_per_minute, tokens_per_minute) = 0),
            CONSTRAINT service_limit_positive_check
                CHECK (least(max_in_flight, requests_per_minute, tokens_per_minute) >= 1)
        ) WITH ({_CHURNS})
        """
    )
    op.execute(
        f"""
        CREATE TABLE upstream_share (
            limit_id UUID NOT NULL,
            worker_id BIGINT NOT NULL,
            granted INTEGER NOT NULL,
            in_use INTEGER NOT NULL,
            waiting INTEGER NOT NULL,
            wanted INTEGER NOT NULL,
            CONSTRAINT upstream_share_pkey PRIMARY KEY (limit_id, worker_id)
        ) WITH ({_CHURNS})
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE upstream_share")
    op.execute("DROP TABLE service_limit")
