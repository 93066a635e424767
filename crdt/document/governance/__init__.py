"""Who may do what in a document: its owners, rights and read keys, used by whoever writes here."""
