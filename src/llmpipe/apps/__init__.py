"""What people use a finished model with; these read artifacts and write none."""
