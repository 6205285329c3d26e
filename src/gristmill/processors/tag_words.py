"""Tags as the model says them, made alike: the same answer always gives the same tags. Pure."""

import re
import unicodedata
from collections.abc import Iterable, Sequence

MAX_CHARACTERS = 60  # of one tag: longer ones are sentences

_SEPARATORS = re.compile(r"[,;\n\r\u3001\uff0c]")  # where a model puts several into one
_AROUND = re.compile(r"^[\W_]+|[^\w+#]+$")  # bullets, quotes, a hash; but C++ and C# end so


def normalised(said: Iterable[str], excluded: Sequence[str], most: int) -> list[str]:
    """In the order they were said: lower case, single blanks, no marks around, none twice, no excluded word in one."""
    unwanted = [key for word in excluded if (key := _key(_clean(word)))]
    tags: dict[str, str] = {}
    for one in said:
        for part in _SEPARATORS.split(one):
            tag = _clean(part)
            key = _key(tag)
            if key and len(tag) <= MAX_CHARACTERS and not _among(key, unwanted):
                tags.setdefault(key, tag)
    return list(tags.values())[:most]


def _clean(text: str) -> str:
    return _AROUND.sub("", " ".join(unicodedata.normalize("NFC", text).lower().split()))


def _key(tag: str) -> str:
    """What two spellings of one tag have in common."""
    return unicodedata.normalize("NFKC", tag).casefold().replace("-", " ").replace("_", " ")


def _among(key: str, unwanted: Sequence[str]) -> bool:
    """As a whole or as words of it: `form` excludes `tax form`, not `platform`."""
    return any(f" {word} " in f" {key} " for word in unwanted)
