"""The page of a node that runs all the time: how it is, in a browser, and nothing to press.

| module | what is in it |
|---|---|
| :mod:`~lattica.daemon.page.requests` | HTTP/1.1 requests, and who may make them; pure |
| :mod:`~lattica.daemon.page.server` | answers them, under trio |
| `assets` | what the browser gets: no build step, and nothing from elsewhere |
"""
