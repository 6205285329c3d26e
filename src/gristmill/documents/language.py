"""Which language a document is in, by its letters; the model is part of the library."""

import re

from py3langid import langid

from gristmill.documents.document import Page

_SAMPLE_CHARACTERS = 20_000
_FEWEST_LETTERS = 20  # fewer prove nothing
_NOT_LETTERS = re.compile(r"[\W\d_]+")


def of(pages: tuple[Page, ...]) -> str | None:
    """ISO 639-1, or None."""
    sample = _sample(pages)
    if len(_NOT_LETTERS.sub("", sample)) < _FEWEST_LETTERS:
        return None
    code = str(langid.classify(sample)[0])
    return None if code == "zxx" else code


def _sample(pages: tuple[Page, ...]) -> str:
    """From the beginning; title pages and tables of contents do no harm in 20,000 characters."""
    parts: list[str] = []
    size = 0
    for page in pages:
        parts.append(page.text[: _SAMPLE_CHARACTERS - size])
        size += len(parts[-1])
        if size >= _SAMPLE_CHARACTERS:
            break
    return "\n".join(parts)


def warm() -> None:
    """Loads the model (0.4 s of CPU), so that children find it loaded."""
    langid.classify("This sentence is here to have the model loaded.")
