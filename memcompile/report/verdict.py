"""The verdict: what a program comes to in a sentence or two, for the first line of the report and of the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memcompile.figures import FORMS, PLUS_MINUS, at_key, pointer

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A number in a sentence: its key among the facts, and the form it is written in."""

    key: str
    form: str


Words = list[str | Figure]
"""A sentence: words, and the figures between them."""


def as_text(words: Words, facts: Facts) -> str:
    """A sentence as plain text."""
    return "".join(word if isinstance(word, str) else FORMS[word.form](at_key(facts, word.key)) for word in words)


def verdict(facts: Facts) -> list[Words]:
    """Sentences on whether a network fits, how fast it is, what it takes, how accurate it is, and what limits it."""
    sentences = [mapping_verdict(facts), quality_verdict(facts)]
    limit = limiting(facts) if facts["layers"] else None
    if limit:
        sentences.append([f"limited by {limit}"])
    return [words for words in sentences if words]


def mapping_verdict(facts: Facts) -> Words:
    """Sentence on whether a network fits, how fast it is, and what it takes."""
    if not facts["layers"]:
        return [f"{facts['model']} runs digitally as a whole: no layer lands on crossbars"]
    return [*_fits(facts), *_speed(facts)]


def quality_verdict(facts: Facts) -> Words:
    """Sentence on accuracy, or on signal to noise without labels; empty where neither was measured."""
    if not facts["layers"]:
        return []
    return _accuracy(facts) or _ratio(facts)


def limiting(facts: Facts) -> str | None:
    """Resource that keeps the interval from being shorter, where the search says so."""
    found = [item["limited_by"] for item in facts["certificates"] if item["quantity"] == "initiation_interval"]
    return found[0] if found else None


def _fits(facts: Facts) -> Words:
    chips: Words = [Figure("/chips", "count"), f" chip{'' if facts['chips'] == 1 else 's'} of {facts['target']}"]
    if facts["segments"]:
        return [f"{facts['model']} runs on ", *chips, " in ", Figure("/segments", "count"), " segments: "]
    return [f"{facts['model']} fits on ", *chips, ": "]


def _speed(facts: Facts) -> Words:
    words: Words = []
    if facts["images_per_second"] is not None:
        words += [Figure("/images_per_second", "figure"), " images/s, "]
    words += [Figure("/cost/latency_us", "time_us"), " latency" if not facts["segments"] else " a batch"]
    if facts["cost"]["energy_pj"] is not None:
        words += [", ", Figure("/cost/energy_pj", "energy_pj"), " an image"]
    return words


def _accuracy(facts: Facts) -> Words:
    accuracy = facts["accuracy"]
    if accuracy is None:
        return []
    tuned = "/accuracy/tuned/" if accuracy["tuned"] else "/accuracy/emulated_"
    words: Words = ["accuracy ", Figure(f"{tuned}mean", "accuracy")]
    if accuracy["seeds"] > 1:
        words += [PLUS_MINUS, Figure(f"{tuned}std", "accuracy")]
    return [*words, " on emulated chips, ", Figure("/accuracy/float", "accuracy"), " in float"]


def _ratio(facts: Facts) -> Words:
    """Signal to noise of the only output, where there are no labels."""
    ratios = facts["output_sqnr_db"] or {}
    if len(ratios) != 1 or None in ratios.values():
        return []
    (name,) = ratios
    chips = (facts["emulated_quality"]["output_sqnr_db"] or {}).get(name)
    words: Words = ["output ", Figure(pointer("output_sqnr_db", name), "decibel"), " above the noise of quantising"]
    if chips is not None:
        mean = pointer("emulated_quality", "output_sqnr_db", name, "mean")
        words += [", ", Figure(mean, "decibel"), " on emulated chips"]
    return words
