"""Records: what can be stored under which key, and who may store it. Pure."""
