"""Search for windows and replicas of all layers: options, relaxations, branching and bounds.

The passes ``replicate``, ``cut_segments`` and ``place`` call it; it imports no pass.
"""
