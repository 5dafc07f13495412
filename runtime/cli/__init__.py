"""The command ``splade-edge``: parse, call the API, print."""
