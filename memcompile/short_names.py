"""Names of layers cut to a length, such that no two become the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

MARK = "…"
"""Sign for what is left out of a name."""


def short_names(names: Sequence[str], most: int) -> list[str]:
    """Names of at most so many characters: their tails where these tell them apart, else heads and tails.

    Names that no such cut tells apart get their number. Equal names stay equal.
    """
    found = {name: name for name in names}
    cuts: list[Callable[[str], str]] = [lambda name: _cut(name, 0, most)]
    cuts += [lambda name, head=head: _cut(name, head, most) for head in range(1, most - 1)]  # type: ignore[misc]
    unsettled = [name for name in found if len(name) > most]
    taken = {name for name in found if len(name) <= most}
    for cut in cuts:
        counts = Counter(map(cut, unsettled))
        for name in list(unsettled):
            short = cut(name)
            if counts[short] == 1 and short not in taken:
                found[name] = short
                taken.add(short)
                unsettled.remove(name)
        if not unsettled:
            break
    for name in unsettled:
        suffix = f"#{list(found).index(name) + 1}"
        found[name] = _cut(name, 0, max(most - len(suffix), 1)) + suffix
    return [found[name] for name in names]


def _cut(name: str, head: int, most: int) -> str:
    """A name without its middle: so many characters of its head, then as many of its tail as there is room for."""
    if len(name) <= most:
        return name
    return name[:head] + MARK + name[len(name) - (most - head - 1) :]
