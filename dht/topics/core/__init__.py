"""What GossipSub decides, pure: bytes and the clock go in, actions come out."""
