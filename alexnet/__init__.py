"""AlexNet for two frameworks: what both share. Imports neither jax nor torch."""
