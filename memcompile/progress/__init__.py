"""Progress of long work: one line that says which phase is under way, in terminals, pipes and notebooks."""
