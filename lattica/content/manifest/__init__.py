"""What a publication consists of, and how it is written down."""
