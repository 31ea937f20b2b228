"""Networks larger than their chips: costs of a segment, and cut points."""
