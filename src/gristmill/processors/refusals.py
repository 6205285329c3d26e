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


def model_of(upstream: Upstream, asked: str | None) -> str:
    """The model to ask: the configuration's, else the service's."""
    model = asked or upstream.model
    if model is None:
        message = "The configuration names no model, and the service has none."
        suggestion = "Name a model in the configuration, or set GRISTMILL_LLM_MODEL."
        raise Refused(Failure(ItemError(500, "model_not_configured", message, suggestion=suggestion)))
    return model
