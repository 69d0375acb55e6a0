"""Solutions of the few exercises whose function the library has only in a more elaborate form."""
