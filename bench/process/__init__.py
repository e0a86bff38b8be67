"""The wire between the launcher and the process of a run: options, events, failures. No torch, no pandas."""
