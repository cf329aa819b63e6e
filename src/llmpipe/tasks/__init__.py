"""Tasks: questions whose answers can be judged by a program."""
