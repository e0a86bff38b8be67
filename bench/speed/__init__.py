"""Own speed beside plain references, as ratios: one module a topic, each a function that returns rows."""
