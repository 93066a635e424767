"""Documents on the network: opened, replicated with everyone who has them open, and told of."""
