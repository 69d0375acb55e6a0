"""The commands of ``python -m moe_numpy``, one a module. Each is a plain function that typer can serve."""
