"""The neural model that all methods share: encoder, ensemble of repetitions, optimisers, kernels, devices."""
