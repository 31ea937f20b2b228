"""Search for windows and replicas of all layers: options, relaxations, branching and bounds.

The passes ``replicate``, ``cut_segments`` and ``place`` ask it; it imports no pass.
"""
