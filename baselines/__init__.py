"""Every other output layer and classifier, a file each."""
