"""What the house remembers: tables, sessions, jobs, audit and migrations."""
