"""A log and its file, always of one mind. Calls block, for as long as the disk does."""
