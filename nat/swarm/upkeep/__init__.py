"""What looks after connections: silence, doubles, a busy process, descriptors, memory."""
