"""Downloads: HTTP, Google Drive, archives that are unpacked safely."""
