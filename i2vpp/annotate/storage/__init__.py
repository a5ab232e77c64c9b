"""What people marked, on disk: one SQLite file per video, with undo."""
