"""Gristmill: a self-hosted, asynchronous REST batch-job service for AI work."""
