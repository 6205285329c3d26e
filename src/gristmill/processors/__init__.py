"""The kinds of work this service can do. The contract is in `base.py`; how to add one: docs/processors.md."""

from gristmill.processors.registry import get, registry
from gristmill.processors.validation import validate, validate_config

__all__ = ["get", "registry", "validate", "validate_config"]
