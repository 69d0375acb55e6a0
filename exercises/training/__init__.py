"""Train the real model with the functions that passed."""
