"""What all commands share: options, the terminal, events as JSON, starting a node."""
