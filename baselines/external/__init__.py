"""Methods of other libraries: each runs in a Python environment of its own, through files and a child process."""
