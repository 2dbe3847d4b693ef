"""What people look at: progress while a run goes on, pictures and tables afterwards."""
