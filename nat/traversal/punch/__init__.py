"""From a relayed connection to a direct one: hole punching and what else there is."""
