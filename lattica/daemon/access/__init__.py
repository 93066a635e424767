"""Whom a relay serves: tokens, bans, the operator's own service, members of documents."""
