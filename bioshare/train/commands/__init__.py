"""The commands: each module has `add_arguments` and `main`."""
