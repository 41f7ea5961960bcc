"""The commands of `mbrl`, a module each: thin wrappers that parse, call, show, and write `--json`."""
