"""The providers of a fetch: how one is reached and asked, and several one after the other."""
