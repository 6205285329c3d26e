"""For Schemathesis (which has an environment of its own): why a request that fits the schema may be refused all the same."""

from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, Response
from schemathesis.generation.modes import GenerationMode

# What no schema says: that something exists or can be reached, …
_MISSING = """unknown_custom_id
unknown_agent unknown_file unknown_directory unknown_configuration unknown_processor unknown_preset unpublished
agent_not_published empty_directory empty_file missing address_refused url_unreachable"""
# … goes together, …
_TOGETHER = """agent_or_processor key_or_model no_upstream config_with_agent with_configuration other_processor requests_or_source
repeated_parameter
cursor_and_offset invalid_cursor nothing_to_retry nothing_to_change takes_no_files calls_no_model duplicate_custom_id
duplicate_name duplicate_file reserved_parameter reserved_name"""
# … or can be sent on, opened, stored. That 2.0 is an integer is JSON Schema's view, not ours: nothing is coerced.
_USABLE = """header_name header_value invalid_idempotency_key nul_character lone_surrogate number_out_of_range
unstorable_value invalid_instant invalid_uuid int_type int_from_float invalid_zip unknown_field invalid_multipart
too_many_files"""
SEMANTIC = frozenset(f"{_MISSING} {_TOGETHER} {_USABLE}".split())


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    """One of the three ways to show a key: else it fills the other two with something, and most answers are a 401."""
    schemes = raw_schema["components"]["securitySchemes"]
    raw_schema["components"]["securitySchemes"] = {"ApiKey": schemes["ApiKey"]}
    for item in raw_schema["paths"].values():
        for operation in item.values():
            if "security" in operation:
                operation["security"] = [{"ApiKey": []}]


@schemathesis.check
def refused_for_what_no_schema_says(ctx: CheckContext, response: Response, case: Case) -> None:
    """Of requests that fit the schema."""
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if response.status_code == 400:
        codes = {one["code"] for one in response.json()["error"]["errors"] if not _of_a_processor(one)}
        assert codes <= SEMANTIC, f"refused as {sorted(codes - SEMANTIC)}"


def _of_a_processor(problem: dict[str, Any]) -> bool:
    """Each has a schema of its own, at /api/v1/processors."""
    parts = problem["pointer"].split("/")
    return (
        parts[1:2] == ["config"] or parts[3:4] == ["input"] or (parts[1:2] == ["requests"] and len(parts) > 3)
    )
