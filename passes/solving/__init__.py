"""CP-SAT with limits that do not depend on the machine, and the clock of counted work that all searches share."""
