"""Mechanisms whose parameters can be found from logs; a new one is a new file with a function `build(spec, base)`."""
