"""Who may do what in a document that is not open: pure."""
