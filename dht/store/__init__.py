"""What a node keeps for others: records within quotas, until they expire, in memory and on disk."""
