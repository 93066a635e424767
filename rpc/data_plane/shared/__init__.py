"""Memory that two nodes on one machine share, for large buffers of the data plane."""
