"""Whom a relay of an operator's serves: tokens, bans, questions to the operator's own service."""
