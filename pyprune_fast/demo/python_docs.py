"""English text that every Python brings along: its own help topics (``pydoc_data``, some 460,000 characters).

It differs from one version of Python to the next, so a figure made of it names `fingerprint`.
"""

from __future__ import annotations

import hashlib
import re

__all__ = ["fingerprint", "sentences", "text"]


def _topics() -> dict[str, str]:
    from pydoc_data.topics import topics  # large: read when it is wanted

    return dict(sorted(topics.items()))


def text() -> str:
    """Returns all topics, one after the other, in the order of their names."""
    return "\n".join(_topics().values())


def fingerprint() -> str:
    """Tells which text it is: 12 digits of its SHA-256."""
    return hashlib.sha256(text().encode()).hexdigest()[:12]


def sentences(shortest: int = 40, longest: int = 200) -> list[tuple[str, str]]:
    """Returns topic and sentence of every whole sentence, each once, in the text's order.

    Args:
        shortest: Least number of characters.
        longest: Greatest number of characters.

    Example:
        >>> topic, sentence = sentences()[0]
        >>> 40 <= len(sentence) <= 200 and sentence.endswith(".")
        True
    """
    found: dict[str, str] = {}
    for topic, words in _topics().items():
        for paragraph in re.split(r"\n\s*\n", re.sub(r"[*`_|]", "", words)):
            for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split())):
                if shortest <= len(sentence) <= longest and re.fullmatch(r"[A-Z].*\.", sentence):
                    found.setdefault(sentence, topic)
    return [(topic, sentence) for sentence, topic in found.items()]
