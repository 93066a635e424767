"""Pictures of a scenario and of the paths that a run used."""
