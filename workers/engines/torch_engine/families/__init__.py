"""How each family is built and called; one module per family."""
