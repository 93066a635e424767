"""What every room stands on: errors, keys, addresses, framing, pauses. Imports nothing of ours."""
