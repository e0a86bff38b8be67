"""Downloads: HTTP, Google Drive, archives that are extracted safely."""
