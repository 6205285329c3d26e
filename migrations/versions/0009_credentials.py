"""Idempotency keys, rotation of API keys, the log of administrative acts.

Revision: 0009
"""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE api_key ADD COLUMN replaced_by UUID")
    op.execute(
        """
        CREATE TABLE audit_entry (
            id UUID NOT NULL,
            tenant_id UUID NOT NULL,
            at timestamptz DEFAULT now() NOT NULL,
            action TEXT NOT NULL,
            target_id UUID NOT NULL,
            actor_kind TEXT NOT NULL,
            actor_id TEXT,
            actor_name TEXT,
            address TEXT,
            request_id TEXT,
            details JSONB NOT NULL,
            CONSTRAINT audit_entry_pkey PRIMARY KEY (id)
        )
        """
    )
    op.execute("CREATE INDEX audit_entry_tenant_id_id_idx ON audit_entry (tenant_id, id)")
    op.execute(
        """
        CREATE TABLE idempotency_key (
            tenant_id UUID NOT NULL,
            path TEXT NOT NULL,
            key TEXT NOT NULL,
            fingerprint BYTEA NOT NULL,
            status SMALLINT NOT NULL,
            location TEXT NOT NULL,
            body BYTEA NOT NULL,
            expires_at timestamptz NOT NULL,
            CONSTRAINT idempotency_key_pkey PRIMARY KEY (tenant_id, path, key)
        )
        """
    )
    op.execute("CREATE INDEX idempotency_key_expires_at_idx ON idempotency_key (expires_at)")


def downgrade() -> None:
    op.execute("DROP TABLE idempotency_key")
    op.execute("DROP TABLE audit_entry")
    op.execute("ALTER TABLE api_key DROP COLUMN replaced_by")
