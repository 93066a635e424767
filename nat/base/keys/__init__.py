"""Who a peer is: keys, peer IDs, and what they have signed."""
