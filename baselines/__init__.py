"""Every output layer and classifier other than MACH, a file per method; what they share is in the rooms below."""
