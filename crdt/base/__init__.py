"""What every room of documents stands on: the encoding of plain data, and long work in turns."""
