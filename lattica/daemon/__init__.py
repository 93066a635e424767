"""Programs that run all the time, and what other programs see of them."""
