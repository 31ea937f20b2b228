"""Networks larger than their chips: what a segment costs, and where to cut."""
