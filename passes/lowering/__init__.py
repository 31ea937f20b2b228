"""One kind of operator a module: what it becomes as crossbar layers with digital operators around them.

The pass ``select_crossbar_operators`` asks them in turn; they import no pass.
"""
