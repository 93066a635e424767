"""What lies between the two of a benchmark: a slow proxy, a lossy line of the network lab."""
