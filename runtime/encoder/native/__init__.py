"""The int8 transformer and vocabulary decoder of our own, an encoder backend that loads no engine."""
