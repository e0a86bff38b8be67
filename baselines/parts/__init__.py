"""Parts that several methods use: samplers, shards of labels, top-k lists, sums by index, costs."""
