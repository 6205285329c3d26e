class EmbeddedPostgresError(Exception):
    """Postgres could not be started; the text says why and what to do about it."""
