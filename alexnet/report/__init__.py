"""Output for people: progress while a run goes on, pictures and tables afterwards."""
