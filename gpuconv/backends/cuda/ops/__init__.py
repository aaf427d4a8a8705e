"""The launchers of the ops, one file a family, and what only they share."""
