"""Ending an item early: what a step cannot go on without."""

from gristmill.domain.outcomes import Failure, ItemError, Retry
from gristmill.upstream.client import Upstream


class Refused(Exception):
    """The item ends here with this outcome."""

    def __init__(self, outcome: Failure | Retry) -> None:
        super().__init__(outcome.error.message)
        self.outcome = outcome


def configured(upstream: Upstream | None) -> Upstream:
    if upstream is None:
        raise Refused(
            Failure(
                ItemError(
                    500,
                    "upstream_not_configured",
                    "No model endpoint is configured.",
                    suggestion="Set GRISTMILL_LLM_BASE_URL to an OpenAI-compatible endpoint and restart.",
                )
            )
        )
    return upstream


def named_model(upstream: Upstream) -> str:
    """The model of calls that name none themselves."""
    if upstream.model is None:
        message = "No model is configured."
        suggestion = "Set GRISTMILL_LLM_MODEL, or give the batch an upstream.model."
        raise Refused(Failure(ItemError(500, "model_not_configured", message, suggestion=suggestion)))
    return upstream.model
