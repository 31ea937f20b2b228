"""Lowering of operators to crossbar layers with digital operators around them, one kind of operator per module.

The pass ``select_crossbar_operators`` calls them in turn; they import no pass.
"""
