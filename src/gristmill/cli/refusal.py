class Refusal(Exception):
    """The command cannot do it; the text says why and what would help, and holds no secret."""
