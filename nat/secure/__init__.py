"""From a pipe of bytes to an encrypted channel with a known peer; who may have one."""
