"""What a node does in the DHT by itself: joins, keeps its table and its records fresh."""
