"""What a small internet is: scenarios and their parts, as frozen dataclasses."""
