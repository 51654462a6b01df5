"""Licences of texts and models: which one a model gets where none is named, and what does not fit together.

No rule of law stands here: whether a model is a work made of its text is disputed. The default is the careful one, and
everything else is said.
"""

import re

SHARE_ALIKE = "cc-by-sa-4.0"  # of the text of Wikipedia
FREE = ("cc0-1.0", "public-domain")  # ask for nothing
ON_THE_HUB = (  # licences of texts that the Hub has a name for
    *("apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0"),
    *(SHARE_ALIKE, "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0"),
    *("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "pddl", "odc-by", "odbl"),
)


def short_name(license: str | None) -> str | None:
    """A licence as the Hub would write it: "CC BY-SA 4.0" -> "cc-by-sa-4.0"."""
    return None if license is None else re.sub(r"[\s_-]+", "-", license.strip()).lower()


def is_wikipedia(source: dict) -> bool:
    return "wikipedia" in (source.get("source") or "").lower()


def is_share_alike(source: dict) -> bool:
    """Whether a text asks for CC BY-SA for what is made of it."""
    return is_wikipedia(source) or "cc-by-sa" in (short_name(source.get("license")) or "")


def default(sources: list[dict]) -> str | None:
    """The licence of a model made of these texts where none is named: CC BY-SA if one of them asks for it, else theirs.

    None where they have several, or one that the Hub has no name for.
    """
    if any(map(is_share_alike, sources)):
        return SHARE_ALIKE
    names = {short_name(source.get("license")) for source in sources}
    only = names.pop() if len(names) == 1 else None
    return only if only in ON_THE_HUB else None


def doubts(license: str, sources: list[dict]) -> list[str]:
    """A sentence for each text whose licence is not that of the model, and does not leave it free."""
    found = []
    for source in sources:
        name, own = source.get("name") or "the training text", source.get("license")
        if is_share_alike(source) and license != SHARE_ALIKE:
            found.append(
                f"{name} ({own or 'licence unknown'}) asks for the same licence of what is made of it: make sure that "
                f"a model under {license} does not need it"
            )
        elif not is_share_alike(source) and short_name(own) not in (license, *FREE):
            found.append(f"make sure that {name} ({own or 'licence unknown'}) may be used for a model under {license}")
    return found
