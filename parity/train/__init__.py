"""One trial, from its first step to its last event, in the process that calls it."""
